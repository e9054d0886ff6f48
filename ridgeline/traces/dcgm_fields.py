"""DCGM's fields: one row per quantity, whatever it is called.

Field ids and the heads of `dcgmi dmon` stayed the same through all versions; DCGM 4 renamed the
symbols that dcgm-exporter and Prometheus use as metric names. Source: dcgm_fields.h and
dcgm_fields.cpp of DCGM 4.6 (Apache-2.0), read 2026.
"""

import re
from collections.abc import Iterator

from ridgeline.traces.samples import Field

# id, our key, head, unit of the value, and every symbol after DCGM_FI_: the old one, then the new
_TABLE = """
    100 sm_clock SMCLK MHz DEV_SM_CLOCK
    101 memory_clock MMCLK MHz DEV_MEM_CLOCK
    140 memory_temperature MMTMP C DEV_MEMORY_TEMP DEV_MEMORY_TEMP_CELSIUS
    150 temperature TMPTR C DEV_GPU_TEMP DEV_GPU_TEMP_CELSIUS
    155 power POWER W DEV_POWER_USAGE DEV_BOARD_POWER_WATTS
    156 energy TOTEC mJ DEV_TOTAL_ENERGY_CONSUMPTION
    157 power_instant POWINST W DEV_POWER_USAGE_INSTANT DEV_BOARD_POWER_RAW_WATTS
    200 pcie_tx_throughput TXTPT KB/s DEV_PCIE_TX_THROUGHPUT
    201 pcie_rx_throughput RXTPT KB/s DEV_PCIE_RX_THROUGHPUT
    202 pcie_replays RPCTR count DEV_PCIE_REPLAY_COUNTER DEV_PCIE_REPLAY_TOTAL
    203 gpu_utilization GPUTL % DEV_GPU_UTIL DEV_GPU_UTIL_RATIO
    204 memory_copy_utilization MCUTL % DEV_MEM_COPY_UTIL
    206 encoder_utilization ECUTL % DEV_ENC_UTIL
    207 decoder_utilization DCUTL % DEV_DEC_UTIL
    230 xid_error XIDER code DEV_XID_ERRORS DEV_XID_ERROR
    250 memory_total FBTTL MiB DEV_FB_TOTAL
    251 memory_free FBFRE MiB DEV_FB_FREE
    252 memory_used FBUSD MiB DEV_FB_USED
    253 memory_reserved FBRSV MiB DEV_FB_RESERVED
    254 memory_used_ratio FBUSP ratio DEV_FB_USED_PERCENT DEV_FB_USED_RATIO
    449 nvlink_throughput NBWLT MB/s DEV_NVLINK_BANDWIDTH_TOTAL DEV_NVLINK_THROUGHPUT_TOTAL
    1001 engine_active GRACT ratio PROF_GR_ENGINE_ACTIVE PROF_GR_ENGINE_UTIL_RATIO
    1002 sm_active SMACT ratio PROF_SM_ACTIVE PROF_SM_UTIL_RATIO
    1003 sm_occupancy SMOCC ratio PROF_SM_OCCUPANCY PROF_SM_OCCUPANCY_RATIO
    1004 tensor_active TENSO ratio PROF_PIPE_TENSOR_ACTIVE PROF_TENSOR_UTIL_RATIO
    1005 dram_active DRAMA ratio PROF_DRAM_ACTIVE PROF_DRAM_UTIL_RATIO
    1006 fp64_active FP64A ratio PROF_PIPE_FP64_ACTIVE PROF_FP64_UTIL_RATIO
    1007 fp32_active FP32A ratio PROF_PIPE_FP32_ACTIVE PROF_FP32_UTIL_RATIO
    1008 fp16_active FP16A ratio PROF_PIPE_FP16_ACTIVE PROF_FP16_UTIL_RATIO
    1009 pcie_tx PCITX B/s PROF_PCIE_TX_BYTES
    1010 pcie_rx PCIRX B/s PROF_PCIE_RX_BYTES
    1011 nvlink_tx NVLTX B/s PROF_NVLINK_TX_BYTES
    1012 nvlink_rx NVLRX B/s PROF_NVLINK_RX_BYTES
    1013 tensor_imma_active TIMMA ratio PROF_PIPE_TENSOR_IMMA_ACTIVE PROF_IMMA_UTIL_RATIO
    1014 tensor_hmma_active THMMA ratio PROF_PIPE_TENSOR_HMMA_ACTIVE PROF_HMMA_UTIL_RATIO
    1015 tensor_dfma_active TDFMA ratio PROF_PIPE_TENSOR_DFMA_ACTIVE PROF_DFMA_UTIL_RATIO
    1016 integer_active INTAC ratio PROF_PIPE_INT_ACTIVE PROF_INT_UTIL_RATIO
    1076 c2c_tx C2CTXAB B/s PROF_C2C_TX_ALL_BYTES
    1077 c2c_tx_data C2CTXDB B/s PROF_C2C_TX_DATA_BYTES
    1078 c2c_rx C2CRXAB B/s PROF_C2C_RX_ALL_BYTES
    1079 c2c_rx_data C2CRXDB B/s PROF_C2C_RX_DATA_BYTES
    1201 nvlink_tx_total NLXMITB B DEV_NVLINK_COUNT_TX_BYTES DEV_NVLINK_TX_BYTES_TOTAL
    1203 nvlink_rx_total NLRCVB B DEV_NVLINK_COUNT_RX_BYTES DEV_NVLINK_RX_BYTES_TOTAL
    1532 nvlink_tx_of_link NVLPTX B/s PROF_NVLINK_TX_BYTES_PER_LINK
    1533 nvlink_rx_of_link NVLPRX B/s PROF_NVLINK_RX_BYTES_PER_LINK
"""
_PREFIX = "DCGM_FI_"
_FIRST_LINK_ID = 1040  # then transmit and receive of links 0 to 17 in turn
_LINK_NAME = re.compile(r"PROF_NVLINK_L(\d+)_([TR])X_BYTES")
_LINK_HEAD = re.compile(r"NVL(\d+)([TR])")


def _rows() -> Iterator[tuple[str, tuple[str, ...], Field]]:
    """Head, names and field of every line of the table."""
    for line in filter(None, map(str.strip, _TABLE.splitlines())):
        number, key, head, unit, *names = line.split()
        yield head, tuple(names), Field(key=key, unit=unit, id=int(number))


FIELDS = {int(row.id or 0): row for _, _, row in _rows()}
"""Field id -> field."""
_BY_HEAD = {head: row for head, _, row in _rows()}
_BY_NAME = {name: row for _, names, row in _rows() for name in names}


def _of_link(found: re.Match[str]) -> Field:
    """The bytes one NVLink carries one way: group 1 is its number, group 2 the way, T or R."""
    number, is_received = int(found[1]), found[2] == "R"
    key = f"nvlink_{'rx' if is_received else 'tx'}_of_link_{number}"
    return Field(key=key, unit="B/s", id=_FIRST_LINK_ID + 2 * number + is_received)


def field_of_head(head: str, unit: str = "") -> Field:
    """The field under the column `head` of `dcgmi dmon`; one we have no row for keeps its head as
    key, and the unit the log gives it."""
    if link := _LINK_HEAD.fullmatch(head):
        return _of_link(link)
    return _BY_HEAD.get(head) or Field(key=head, unit=unit)


def field_of_name(name: str) -> Field:
    """The field of a metric's name (`DCGM_FI_PROF_SM_ACTIVE`), its symbol or its number; one we
    have no row for keeps its name as key."""
    short = name.removeprefix(_PREFIX)
    if short.isdecimal() and int(short) in FIELDS:
        return FIELDS[int(short)]
    if link := _LINK_NAME.fullmatch(short):
        return _of_link(link)
    return _BY_NAME.get(short) or Field(key=name)
