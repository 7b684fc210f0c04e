"""A method as a run has left it, to look into."""

from __future__ import annotations

from scenewise.engine.checkpoints import Checkpoint
from scenewise.engine.config import RunConfig
from scenewise.engine.plan import build_method, make_backbone
from scenewise.methods import method_class
from scenewise.methods.base import Method


def restore_method(config: RunConfig, saved: Checkpoint) -> Method:
    """Return the method of a run's resolved configuration with a checkpoint's weights: on the CPU, in evaluation mode.

    Its batch statistics are the running ones, so that an image is seen alike whatever others are beside it.
    """
    backbone, _ = make_backbone(config, fresh=False)
    method = build_method(method_class(config.method), config.method_config, backbone, seed=config.seed)
    method.load_state_dict(saved.model)
    method.eval()
    return method
