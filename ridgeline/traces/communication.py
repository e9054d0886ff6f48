"""Which kernels move data between devices."""

import re

_COMMUNICATION = re.compile(
    r"^nccl|^rccl|^hccl|ncclDevKernel|ncclKernel|mscclKernel|multimem_all_reduce"
    r"|cross_device_reduce|one_shot_all_reduce|two_shot_all_reduce|deep_ep::|nvshmem",
    re.IGNORECASE,
)
"""NCCL, RCCL, HCCL, MSCCL, NVSHMEM, and the all-reduces of vLLM, TensorRT-LLM and DeepEP; as they
are spelled in the recordings that tests read and in those projects' sources."""


def is_communication(kernel: str) -> bool:
    """Whether a kernel of that name moves data between devices."""
    return _COMMUNICATION.search(kernel) is not None
