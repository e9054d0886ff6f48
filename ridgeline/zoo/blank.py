"""Linear and embedding layers that leave their weights undrawn, and one function that draws them
all.

A 405B model has 883 of them: torch's own initialisation takes over a second on `meta`, where it
means nothing, and would be done twice elsewhere.
"""

from torch import nn


class Linear(nn.Linear):
    """`nn.Linear` whose weights are undefined until drawn or loaded."""

    def reset_parameters(self) -> None:
        """Draws nothing."""


class Embedding(nn.Embedding):
    """`nn.Embedding` whose weights are undefined until drawn or loaded."""

    def reset_parameters(self) -> None:
        """Draws nothing."""


def draw_weights(model: nn.Module) -> None:
    """Draws every matrix from N(0, 1 / last dimension), which keeps activations near 1 at any
    width, and zeroes the biases.

    Stacked expert matrices count; vectors of normalisation layers keep their ones. Skips parameters
    on `meta`.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            continue
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
