"""Evaluation: a backbone in, figures with intervals out; nothing here knows how a backbone was trained."""

from scenewise.evaluate.evaluation import Evaluation, differences
from scenewise.evaluate.run import PROTOCOLS, evaluate_backbone

__all__ = ["PROTOCOLS", "Evaluation", "differences", "evaluate_backbone"]
