"""What every quantity in a report means, in the words of the cost model."""

DEFINITIONS: tuple[tuple[str, str], ...] = (
    (
        "time",
        "Predicted, not measured: for each node the larger of compute time and memory time, plus "
        "the time to start its kernel; summed over nodes and repeats.",
    ),
    (
        "at the roofline",
        "The time below which no execution gets at the same ceiling: the larger of all useful "
        "FLOPs at the peak rate, and every weight, input and result moved once.",
    ),
    (
        "achievable ceiling",
        "The best rates that kernels were measured to reach on this machine; where nobody "
        "published one, a stated share of the datasheet. All times use it unless --ceiling "
        "datasheet is given.",
    ),
    (
        "datasheet ceiling",
        "The vendor's peak rates, dense, without sparsity. No kernel sustains them.",
    ),
    (
        "bound",
        "What a node waits for most. compute: arithmetic. memory: bytes from main memory. "
        "overhead: the start of its kernel. free: a view, it takes no time.",
    ),
    (
        "FLOPs, full attention",
        "Model FLOPs: matrix products, convolutions and attention, a multiply and an add counting "
        "as two; attention over all pairs of positions.",
    ),
    ("FLOPs, causal", "The same without the half of causal attention that is masked out."),
    (
        "FLOPs, executed",
        "What kernels really multiply: causal attention, plus what is computed again in backward.",
    ),
    ("MACs", "Multiply-accumulates: half of the FLOPs with full attention."),
    (
        "vector ops",
        "Arithmetic outside matrix work: norms, activations, sums; a transcendental counts once.",
    ),
    (
        "bytes moved",
        "Bytes to and from main memory. Compiled: neighbours run as one kernel, so each operand is "
        "read once and only results that others need are written. Eager: as op by op.",
    ),
    ("op by op", "The same when every node reads and writes for itself."),
    (
        "matrix rate",
        "Model FLOPs (causal) over the predicted time, as a share of each ceiling of the dtype "
        "that most matrix work is in.",
    ),
    (
        "intensity and ridge",
        "FLOPs per byte moved. Above the ridge (peak rate over bandwidth) a matrix product waits "
        "for compute, below it for memory.",
    ),
    (
        "peak memory",
        "Weights, KV cache, inputs, gradients and optimizer state, held throughout, plus the most "
        "that activations take at once, by liveness. No allocator's slack, no workspace.",
    ),
    (
        "devices at least",
        "The peak memory over one device's memory, rounded up: a lower bound, since nothing splits "
        "without copies.",
    ),
    ("count", "How often a node runs, or how many modules alike stand behind a row (layers.*)."),
)
