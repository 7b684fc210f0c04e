"""What is wrong with a run's configuration whatever the data are."""

from __future__ import annotations

import sys

import torch

from scenewise.engine.config import RunConfig
from scenewise.engine.machine import choose_device
from scenewise.engine.optim import decide_optimiser
from scenewise.engine.plan import choose_group, make_backbone, part_of_process
from scenewise.engine.processes import started_world
from scenewise.engine.proposed import check_crops, check_proposals
from scenewise.errors import UserError, all_at_once
from scenewise.methods import method_class
from scenewise.sources import parse_spec
from scenewise.views.slots import scale_slots


def check_config(config: RunConfig, *, fresh: bool = True) -> None:
    """Raise UserError for what is wrong whatever the data are, before they are looked at: every problem at once.

    `fresh`: the run starts anew, so the weights it starts from are needed.
    """
    all_at_once(
        lambda: check_crops(config.crops, config.data.proposals, config.data.source),
        lambda: check_proposals(config.data.proposals),
        lambda: _check_backbone(config, fresh=fresh),
        lambda: _check_batch(config),
        # the longest data there could be: what fails for them fails for any
        lambda: method_class(config.method).resolve(
            config.method_config, images=sys.maxsize, batch_size=config.engine.batch_size
        ),
        lambda: decide_optimiser(config.optimiser, method_class(config.method), epochs=config.engine.epochs),
        lambda: choose_device(config.engine.device),
        lambda: parse_spec(config.data.source),
        lambda: None if config.probe.data is None else parse_spec(config.probe.data),
    )


def _check_backbone(config: RunConfig, *, fresh: bool) -> None:
    backbone, _ = make_backbone(config, fresh=fresh)
    slots = scale_slots(method_class(config.method).slots(config.method_config), config.data.size)
    backbone.check_size(*(slot.size for slot in slots.values()))
    if method_class(config.method).needs_feature_map:
        with torch.no_grad():
            found = backbone.eval().feature_map(torch.zeros(1, 3, config.data.size, config.data.size))
        if found.shape[1] != backbone.width:
            raise UserError(
                f"backbone.name: {backbone.name!r} has a feature map of {found.shape[1]} channels and {backbone.width} "
                f"pooled features; {config.method} needs as many, for example 'resnet50'"
            )


def _check_batch(config: RunConfig) -> None:
    count = part_of_process(config, world=started_world())
    kind = method_class(config.method).batch_statistics
    grouped = kind == "groups" and config.backbone.norm != "group"  # whole on a process
    if count == 1 and (grouped or (kind == "run" and started_world() == 1)):
        raise UserError(
            f"engine.accumulate: {config.engine.accumulate} leaves one image to be computed at once, and "
            f"{config.method} needs two for its batch statistics; use "
            f"{max(1, config.engine.batch_size // (2 * started_world()))} or less"
        )
    if kind == "groups":  # elsewhere it has no effect, and the plan says so
        world = started_world()
        choose_group(config.backbone.batchnorm_group, batch=world * count, processes=world)
