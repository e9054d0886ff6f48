"""What NCCL writes of its calls into an Nsight export made with blobs, from known calls."""

import struct
from dataclasses import dataclass

from nsys_exports import Export

DOMAIN = 1
_INIT, _MESSAGE = 16777218, 16777223
_SCHEMAS = {  # name, type, offset of each number
    _INIT: (("NCCL communicator ID", 18, None), ("No. of ranks", 5, 8), ("Rank", 5, 12),
            ("CUDA device", 5, 16)),
    _MESSAGE: (("NCCL communicator ID", 18, None), ("Message size [bytes]", 22, 8),
               ("Reduction operation", 16777232, 16)),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A collective in a group of its own, as PyTorch makes them; its kernel starts 5 us later."""

    name: str
    kernel: str
    nbytes: int
    start_ns: int


def _blob(schema: int, payload: bytes) -> bytes:
    size = len(payload)
    return struct.pack("<IIIIQQ", DOMAIN, 0, schema, 0, size, size + 32) + payload


def describe(export: Export, pid: int) -> None:
    """Names the domain of a process and registers its schemas."""
    export.nvtx("NCCL", 0, None, pid, eventType=75, domainId=DOMAIN)
    for schema, entries in _SCHEMAS.items():
        for idx, (name, kind, offset) in enumerate(entries):
            cells = {"schemaId": schema, "idx": idx, "type": kind, "name": name, "offset": offset}
            export.add("NVTX_PAYLOAD_SCHEMA_ENTRIES", domainId=DOMAIN, **cells)


def join(export: Export, pid: int, *, rank: int, size: int, device: int, group: int) -> None:
    """A process joins a communicator."""
    blob = _blob(_INIT, struct.pack("<Qiiii", group, size, rank, device, 0))
    export.nvtx("ncclCommInitRank", 0, 10, pid, domainId=DOMAIN, binaryData=blob)


def launch(
    export: Export, pid: int, call: Call, *, device: int, group: int, number: int, is_hex: bool
) -> None:
    """A group of one call, the runtime call in its end, and the kernel."""
    blob = _blob(_MESSAGE, struct.pack("<QQII", group, call.nbytes, 0, 0))
    data = blob.hex() if is_hex else blob
    at = call.start_ns
    export.nvtx("ncclGroupStart", at, at + 100, pid, domainId=DOMAIN)
    export.nvtx(call.name, at + 200, at + 300, pid, domainId=DOMAIN, binaryData=data)
    export.nvtx("ncclGroupEnd", at + 400, at + 900, pid, domainId=DOMAIN)
    export.call("cudaLaunchKernelExC_v11060", at + 500, at + 600, pid, number)
    export.kernel(call.kernel, at + 5000, at + 9000, device, pid, correlationId=number)
