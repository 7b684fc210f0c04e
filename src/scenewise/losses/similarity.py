"""Cosine similarity in full precision, whatever the encoder's: the ground under every loss on embeddings."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SMALLEST_NORM = 1e-12  # torch.nn.functional.normalize's own floor


def lift(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return half precision as float32; float32 and float64 stay what they are (contract, law 5)."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def unit(vectors: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
    """Return the vectors divided by their L2 norm, in float32 or float64.

    A vector without length stays zero and gets no gradient: dividing by a floor instead would multiply it by 1e12. What
    is not a number stays so, and a vector whose length overflows becomes none, so that an encoder that has broken down
    is seen in the loss.
    """
    vectors = lift(vectors)
    norm = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    norm = norm.masked_fill(norm.isinf(), torch.nan)
    return torch.where(norm <= SMALLEST_NORM, 0.0, vectors / norm.clamp_min(SMALLEST_NORM))


def cosine_matrix(
    rows: Float[Tensor, "rows dim"], columns: Float[Tensor, "columns dim"]
) -> Float[Tensor, "rows columns"]:
    """Return every cosine between two sets of vectors, which need not be normalised.

    Scores in bf16 keep only about two thirds of the 20 nearest neighbours, so the product is not left to autocast.
    """
    return plain_product(unit(rows), unit(columns))


def plain_product(
    rows: Float[Tensor, "rows dim"], columns: Float[Tensor, "columns dim"]
) -> Float[Tensor, "rows columns"]:
    """Return rows times columns, transposed, in the wider of their types; autocast is switched off."""
    common = torch.promote_types(rows.dtype, columns.dtype)
    with torch.autocast(rows.device.type, enabled=False):
        return rows.to(common) @ columns.to(common).T


def row_cosine(first: Float[Tensor, "*batch dim"], second: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
    """Return the cosine of each pair of vectors at the same place."""
    return (unit(first) * unit(second)).sum(dim=-1)


def blank_rows(
    dictionary: Float[Tensor, "queue dim"], valid: Bool[Tensor, " queue"] | Bool[Tensor, "batch queue"] | None
) -> Float[Tensor, "queue dim"]:
    """Return the dictionary without gradient, with zeros in the rows that no query may use.

    What stands in an unwritten row (it may be NaN) must reach neither the loss nor, as 0 * NaN, its gradient.
    """
    dictionary = dictionary.detach()
    if valid is None:
        return dictionary
    used = valid if valid.dim() == 1 else valid.any(dim=0)
    return dictionary.masked_fill(~used[:, None], 0.0)
