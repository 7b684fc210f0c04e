"""Label-free health of a representation: is it spread, of full rank, aligned between views, uniform on the sphere?

Half precision is lifted to float32, float64 stays (law 5). All four figures are computed on rows of one window of an
epoch, so they cost no extra pass over the data.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

CAPACITY = (
    512  # rows: RankMe's estimate is stable from a few hundred on, and a 512 x 2048 SVD takes about 0.1 s on a CPU core
)
RANK_EPSILON = 1e-7  # RankMe, Eq. 1: "a small constant, typically set to 1e-7 using float32"


def feature_spread(features: Float[Tensor, "rows features"]) -> Float[Tensor, ""]:
    """Return sqrt(G) times the mean over dimensions of the standard deviation of the L2-normalised rows, 0..1.

    1 when directions are isotropic on the sphere, 0 when every row points the same way. It never exceeds
    sqrt(1 - |mean direction|^2), so 0.3 says that two images have a cosine of about 0.9 on average.
    The deviation is the population's (one row gives 0). Source: Chen and He 2021 (SimSiam), section 4.1, Fig. 2,
    there without the factor sqrt(G).
    """
    directions = normalize(_at_least_float32(features), dim=1)
    return directions.std(dim=0, correction=0).mean() * math.sqrt(features.shape[1])


def effective_rank(features: Float[Tensor, "rows features"]) -> Float[Tensor, ""]:
    """Return RankMe: exp of the entropy of the normalised singular values, 1..min(N, G).

    The rows are taken as they are, neither centred nor normalised, as in the paper; an all-zero matrix gives 1.
    Source: Garrido, Balestriero, Najman, LeCun 2023, "RankMe", Eq. 1, eps 1e-7.
    """
    values = torch.linalg.svdvals(_at_least_float32(features))
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + RANK_EPSILON
    return torch.exp(-(shares * shares.log()).sum())


def alignment(a: Float[Tensor, "rows width"], b: Float[Tensor, "rows width"]) -> Float[Tensor, ""]:
    """Return the mean squared distance of the L2-normalised pairs, 0 (views agree) .. 4; 2 when they are unrelated.

    Source: Wang and Isola 2020, Eq. 4 with alpha = 2.
    """
    difference = normalize(_at_least_float32(a), dim=1) - normalize(_at_least_float32(b), dim=1)
    return difference.square().sum(dim=1).mean()


def uniformity(x: Float[Tensor, "rows width"]) -> Float[Tensor, ""]:
    """Return the log of the mean Gaussian potential over all pairs of L2-normalised rows, 0 (one point) .. -8.

    Rows spread evenly over a wide sphere give about -4 (squared distances around 2); fewer than two rows give 0.
    Source: Wang and Isola 2020, Eq. 5 with t = 2; summed as logarithms, so that no potential underflows.
    """
    directions = normalize(_at_least_float32(x), dim=1)
    rows = directions.shape[0]
    if rows < 2:
        return directions.new_zeros(())
    above = torch.triu_indices(rows, rows, offset=1, device=x.device)
    cosines = (directions @ directions.T)[above[0], above[1]]
    squared_distances = (2 - 2 * cosines).clamp(0, 4)
    return torch.logsumexp(-2 * squared_distances, dim=0) - math.log(cosines.shape[0])


class HealthWindow:
    """The last `capacity` rows of an epoch's features, embeddings and targets, and the health figures on them.

    Rows stay on the device they came from until they are asked for, so `add` never waits for a GPU; figures and the
    state are computed on the CPU in float32. The state belongs in the checkpoint: a resumed run then logs the same
    figures as an uninterrupted one.
    """

    def __init__(self, *, capacity: int = CAPACITY) -> None:
        if capacity < 2:
            raise ValueError(f"capacity: {capacity} is too small, health needs at least 2 rows")
        self.capacity = capacity
        self._batches: deque[tuple[Tensor, Tensor, Tensor]] = deque()

    def __len__(self) -> int:
        """Return how many rows the figures would be computed on."""
        return min(self.capacity, self._rows())

    def add(
        self,
        features: Float[Tensor, "batch features"],
        embeddings: Float[Tensor, "batch width"],
        targets: Float[Tensor, "batch width"],
    ) -> None:
        """Take one step's rows (copied, detached); the oldest beyond the capacity are forgotten."""
        rows = (features, embeddings, targets)
        first, second, third = (tensor.detach()[-self.capacity :].to(torch.float32, copy=True) for tensor in rows)
        self._batches.append((first, second, third))
        while self._rows() - len(self._batches[0][0]) >= self.capacity:
            self._batches.popleft()

    def figures(self) -> dict[str, float]:
        """Return the health figures by their names in metrics.jsonl; empty while there are fewer than two rows."""
        if len(self) < 2:
            return {}
        features, embeddings, targets = self._joined()
        rank = effective_rank(features).item()
        return {
            "health/feature_spread": feature_spread(features).item(),
            "health/effective_rank": rank,
            "health/effective_rank_share": rank / min(features.shape),
            "health/alignment": alignment(embeddings, targets).item(),
            "health/uniformity": uniformity(embeddings).item(),
        }

    def reset(self) -> None:
        """Forget all rows: a new epoch begins."""
        self._batches.clear()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the rows as CPU tensors (n, G), (n, D), (n, D); (0, 0) each when there are none."""
        features, embeddings, targets = self._joined()
        return {"features": features, "embeddings": embeddings, "targets": targets}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the rows back from `state_dict()`."""
        self.reset()
        if len(state["features"]):
            self.add(state["features"], state["embeddings"], state["targets"])

    def _rows(self) -> int:
        return sum(len(features) for features, _, _ in self._batches)

    def _joined(self) -> tuple[Tensor, Tensor, Tensor]:
        if not self._batches:
            empty = torch.zeros(0, 0)
            return empty, empty.clone(), empty.clone()
        features, embeddings, targets = (
            torch.cat([tensor.cpu() for tensor in column])[-self.capacity :]
            for column in zip(*self._batches, strict=True)
        )
        return features, embeddings, targets


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
