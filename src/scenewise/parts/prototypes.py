"""SwAV's prototypes: directions that embeddings are scored against."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from scenewise.losses.similarity import lift


class Prototypes(nn.Module):
    """`count` unit vectors of `width` numbers: a linear layer without bias whose rows are kept at length 1.

    `start` holds their first values, where they stay while they are frozen.
    """

    start: Tensor

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(nn.Linear(width, count, bias=False).weight.detach(), dim=1))
        self.register_buffer("start", self.weight.detach().clone())

    @torch.no_grad()
    def settle(self, *, frozen: bool = False) -> None:
        """Bring every prototype back to length 1 (SwAV's code, before each forward pass), without gradient.

        `frozen`: back to the start, since an optimiser's weight decay moves also what has a gradient of zero.
        """
        self.weight.copy_(self.start if frozen else F.normalize(self.weight, dim=1))

    def forward(
        self, embeddings: Float[Tensor, "batch width"], *, frozen: bool = False
    ) -> Float[Tensor, "batch prototypes"]:
        """Return the scores (B, P) of unit `embeddings` (B, D) in float32; `frozen`: the prototypes get no gradient.

        A frozen pass gives them a gradient of zero, not none: data-parallel training waits for one of every parameter.
        """
        weight = self.weight.detach() + 0 * self.weight if frozen else self.weight
        with torch.autocast(embeddings.device.type, enabled=False):
            return lift(embeddings) @ weight.T
