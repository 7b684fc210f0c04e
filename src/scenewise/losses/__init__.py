"""Losses: pure functions of tensors, without state, device or configuration; the methods gather over processes."""

from scenewise.losses.calibration import calibrated_bias
from scenewise.losses.contrastive import info_nce, nt_xent
from scenewise.losses.dense import dense_info_nce, dense_match
from scenewise.losses.distill import Relation, multi_view_queue_loss, relate, relation_loss
from scenewise.losses.multilabel import knn_softmax, multilabel_loss, pseudo_labels
from scenewise.losses.ranking import Ranking, rank_views, ranking_average_precision, ranking_loss
from scenewise.losses.regression import cosine_regression, mean_shift_loss
from scenewise.losses.transport import (
    Matching,
    instance_loss,
    instance_marginals,
    match_instances,
    prototype_codes,
    sinkhorn_plan,
    swapped_prediction,
)

__all__ = [
    "Matching",
    "Ranking",
    "Relation",
    "calibrated_bias",
    "cosine_regression",
    "dense_info_nce",
    "dense_match",
    "info_nce",
    "instance_loss",
    "instance_marginals",
    "knn_softmax",
    "match_instances",
    "mean_shift_loss",
    "multi_view_queue_loss",
    "multilabel_loss",
    "nt_xent",
    "prototype_codes",
    "pseudo_labels",
    "rank_views",
    "ranking_average_precision",
    "ranking_loss",
    "relate",
    "relation_loss",
    "sinkhorn_plan",
    "swapped_prediction",
]
