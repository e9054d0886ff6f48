"""Losses, which some exported training graphs end in."""

import torch
from torch.nn import functional as F

from ridgeline.frontends.onnx.call import Call, Result, Value
from ridgeline.frontends.onnx.table import Row, rows

_IGNORE_NOTHING = -(2**31)


def _ignored(call: Call) -> int:
    return call.integer("ignore_index") if call.given("ignore_index") else _IGNORE_NOTHING


def _nll(call: Call) -> Value:
    x, target, weight = call.tensor(0), call.tensor(1).long(), call.optional(2)
    return F.nll_loss(
        x, target, weight, ignore_index=_ignored(call), reduction=call.text("reduction")
    )


def _cross_entropy(call: Call) -> Result:
    x, target, weight = call.tensor(0), call.tensor(1).long(), call.optional(2)
    logs = torch.log_softmax(x, 1)
    loss = F.nll_loss(
        logs, target, weight, ignore_index=_ignored(call), reduction=call.text("reduction")
    )
    return [loss, logs]


ROWS: tuple[Row, ...] = rows(
    {"NegativeLogLikelihoodLoss": _nll, "SoftmaxCrossEntropyLoss": _cross_entropy}
)
