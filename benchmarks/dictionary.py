"""MLS's pseudo-labels: the 20 rows of a dictionary of 65,536 that are most like each of 256 queries, by `topk`, beside
a full `argsort` and beside the matrix product that either needs.

    python benchmarks/dictionary.py [--quick] [--json FILE]

Queries and rows are 256 numbers wide. Processor seconds of one call on one thread, medians over rounds.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from rows import Row, compare, run_alone, take_turns
from torch import Tensor

from scenewise.losses import pseudo_labels

BATCH, ROWS, WIDTH, K = 256, 65_536, 256, 20
OURS, NAIVE, PRODUCT = "pseudo_labels", "argsort of all rows", "matrix product alone"


def naive(features: Tensor, dictionary: Tensor) -> Tensor:
    """Return the same labels by sorting every row of the dictionary for every query."""
    scores = F.normalize(features, dim=1) @ F.normalize(dictionary, dim=1).T
    labels = torch.zeros_like(scores, dtype=torch.bool)
    for query, order in enumerate(scores.argsort(dim=1, descending=True)):
        labels[query, order[:K]] = True
    return labels


def product(features: Tensor, dictionary: Tensor) -> Tensor:
    """Return the scores alone."""
    return features @ dictionary.T


def rows(*, quick: bool) -> list[Row]:
    """Return the rows of this benchmark."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    size = ROWS // 8 if quick else ROWS
    queries, dictionary = (torch.randn(count, WIDTH, generator=generator) for count in (BATCH, size))
    assert torch.equal(naive(queries, dictionary), pseudo_labels(queries, dictionary, k=K))
    work = {
        NAIVE: partial(naive, queries, dictionary),
        OURS: partial(pseudo_labels, queries, dictionary, k=K),
        PRODUCT: partial(product, queries, dictionary),
    }
    seconds = take_turns(work, rounds=3 if quick else 7)
    return compare(f"labels of {BATCH} queries among {size:,} rows of width {WIDTH}", seconds, against=NAIVE, unit="s")


if __name__ == "__main__":
    run_alone(rows, __doc__)
