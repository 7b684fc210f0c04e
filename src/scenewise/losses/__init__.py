"""Losses: pure functions of tensors, without state, device or configuration; the methods gather over processes."""

from scenewise.losses.calibration import calibrated_bias
from scenewise.losses.contrastive import info_nce, nt_xent
from scenewise.losses.multilabel import knn_softmax, multilabel_loss, pseudo_labels

__all__ = ["calibrated_bias", "info_nce", "knn_softmax", "multilabel_loss", "nt_xent", "pseudo_labels"]
