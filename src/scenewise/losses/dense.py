"""DenseCL's dense term: every cell of a feature map against the cell of the other view that looks most like it."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from scenewise.losses.contrastive import info_nce
from scenewise.losses.similarity import unit


@torch.no_grad()
def dense_match(
    query_features: Float[Tensor, "images cells features"], key_features: Float[Tensor, "images key_cells features"]
) -> Int64[Tensor, "images cells"]:
    """Return for each query cell the number of the key cell of the same image with the highest cosine, no gradient.

    Both are backbone features (N, S, G), before the head; ties are broken anyhow (DenseCL, arXiv 2011.09157).
    """
    query, key = unit(query_features), unit(key_features)
    common = torch.promote_types(query.dtype, key.dtype)
    with torch.autocast(query.device.type, enabled=False):  # bf16 would match other cells
        cosines = query.to(common) @ key.to(common).transpose(1, 2)  # (N, S, G) x (N, G, S) -> (N, S, S)
    return cosines.argmax(dim=2)


def dense_info_nce(
    query_grid: Float[Tensor, "images cells dim"],
    key_grid: Float[Tensor, "images key_cells dim"],
    query_features: Float[Tensor, "images cells features"],
    key_features: Float[Tensor, "images key_cells features"],
    negatives: Float[Tensor, "queue dim"],
    *,
    temperature: float,
    valid: Bool[Tensor, " queue"] | Bool[Tensor, "images queue"] | None = None,
) -> Float[Tensor, ""]:
    """Return DenseCL's InfoNCE, the mean over the N * S cells of the query maps.

    query_grid (N, S, D), the dense head's embeddings, has gradient; key_grid (N, S, D), the features that match the
    cells (N, S, G) and negatives (Q, D), past images' averaged embeddings, have none. A cell's positive is the key cell
    that `dense_match` names. `valid` names the negatives that count, for all images (Q,) or for each (N, Q); without
    any the loss is 0, with a graph (DenseCL, arXiv 2011.09157).
    """
    match = dense_match(query_features, key_features)  # (N, S)
    positives = key_grid.take_along_dim(match[:, :, None], dim=1)  # (N, S, D)
    if valid is not None and valid.dim() == 2:
        valid = valid.repeat_interleave(query_grid.shape[1], dim=0)  # (N, Q) -> (N * S, Q)
    return info_nce(query_grid.flatten(0, 1), positives.flatten(0, 1), negatives, temperature=temperature, valid=valid)
