"""From what was asked for to what will happen: every open value decided, every clash found, before any work starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scenewise import keys
from scenewise.backbones import Backbone, create_backbone, load_subject
from scenewise.engine.config import RunConfig
from scenewise.engine.data import Schedule
from scenewise.engine.machine import cores_of_process, decide_engine
from scenewise.engine.one_pixel import widen_one_pixel
from scenewise.engine.optim import decide_optimiser, peak_learning_rate
from scenewise.engine.proposed import choose_crops
from scenewise.errors import UserError
from scenewise.methods import method_class
from scenewise.methods.base import HasHeads, Method
from scenewise.parts.batchnorm import GroupedBatchNorm, group_batchnorm
from scenewise.parts.synchronised import synchronise_batchnorm
from scenewise.sources import Source
from scenewise.views.instances import instance_count
from scenewise.views.loading import Proposals
from scenewise.views.overlap import Overlap
from scenewise.views.policies import policy_name
from scenewise.views.regions import RegionPolicy
from scenewise.views.slots import Slot, scale_slots
from scenewise.views.windows import is_small, object_range

DEFAULT_BACKBONE = "resnet50"  # all five papers use ResNet-50
GROUP = 32  # images that share batch statistics: MoCo's 256 images on 8 GPUs


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A run, decided: `config` holds no open value; `notes` are said to the user and kept."""

    config: RunConfig
    source: Source
    method: Method
    backbone: Backbone
    slots: dict[str, Slot]
    proposals: Proposals | None
    schedule: Schedule
    peak_lr: float
    notes: tuple[str, ...]


def choose_group(asked: int | None, *, batch: int, processes: int = 1) -> tuple[int, list[str]]:
    """Return the batch-norm group of the queue methods for `batch` images that all processes compute at once.

    Without a wish it depends on the batch alone, so that N processes equal one, and there are two groups at least: one
    alone would show a key the statistics of its query, however they are shuffled. Raises UserError when groups cannot
    be whole on a process.
    """
    group, per_process = usual_group(batch) if asked is None else asked, batch // processes
    if group is None:
        return per_process, [
            f"batch statistics over all {per_process} images that a process computes at once: "
            + ("a key and its query share them, and to shuffle the keys has no effect; " if processes == 1 else "")
            + f"better are a batch that is a multiple of {GROUP}, or backbone.norm=group"
        ]
    if per_process % group:
        raise UserError(
            f"backbone.batchnorm_group: {group} does not divide the {per_process} images that a process computes "
            f"at once (engine.batch_size); use {_nearest_divisor(per_process, group)}"
        )
    if asked is not None or group == GROUP:
        return group, []
    return group, [
        f"batch statistics over groups of {group} images instead of {GROUP}, to have two whole groups or more of the "
        f"{batch} images that are computed at once"
    ]


def usual_group(batch: int) -> int | None:
    """Return the largest divisor of a batch from 4 to 32 that makes two groups at least, else the next; None: none."""
    divisors = [size for size in range(4, batch // 2 + 1) if batch % size == 0]
    return max((size for size in divisors if size <= GROUP), default=min(divisors, default=None))


def _nearest_divisor(number: int, wish: int) -> int:
    divisors = [size for size in range(2, number + 1) if number % size == 0]
    return min(divisors, key=lambda size: abs(size - wish))


def slow_teachers(method_config: Any, *, steps: int) -> list[str]:
    """Return what to say of teachers that hardly leave their random start within the run.

    A teacher of momentum m remembers about 1 / (1 - m) steps; the papers' 0.999 is for hundreds of thousands of them.
    """
    momenta = {name: value for name, value in dataclasses.asdict(method_config).items() if name.endswith("momentum")}
    return [
        f"method.{name} {momentum:g} remembers about {1 / (1 - momentum):,.0f} steps and the run has {steps:,}: the "
        "teacher hardly leaves its random start; train longer, "
        f"or try --set method.{name}={max(0.9, 1 - 10 / steps):.3g}"
        for name, momentum in momenta.items()
        if momentum < 1 and 0 < steps < 2 / (1 - momentum)
    ]


def unused_objects(crops: RegionPolicy, proposals: str | None, slots: Mapping[str, Slot], config: Any) -> list[str]:
    """Return what to say of proposals, objects and heads that were asked for and come to nothing."""
    name, instances = policy_name(crops), any(slot.instance for slot in slots.values())
    notes = []
    if proposals is not None and not crops.needs_proposals and not instances:
        notes.append(f"data.proposals has no effect: crops {name!r} look at none; add --crops object, or overlap")
    if proposals is None and instances:
        notes.append("there are no proposals: all instances are random boxes; add --proposals auto")
    count = instance_count(slots)
    if count and isinstance(crops, Overlap) and crops.instances not in (count, Overlap().instances):
        notes.append(f"crops.instances has no effect: the method shows {count} instances (method.instances)")
    if isinstance(config, HasHeads) and config.heads == "dual" and not name.startswith("object"):
        notes.append(f"method.heads=dual: crops {name!r} give no views of objects, so one head learns nothing")
    return notes


def object_notes(crops: RegionPolicy, slots: Mapping[str, Slot], source: Source) -> list[str]:
    """Return what to say of crops by objects that may not be what is expected: without chance, or of packed photos."""
    notes = []
    mean_area = getattr(crops, "mean_area", None)
    if mean_area is not None and getattr(crops, "object_scale", None) is None:
        ranges = {name: object_range(slot, mean_area=mean_area, smallest=None) for name, slot in slots.items()}
        fixed = [name for name, slot in slots.items() if ranges[name][0] == 1 and not is_small(slot)]
        if fixed:
            notes.append(
                f"a proposal covers {mean_area:.0%} of its photo on average, so views of objects ({', '.join(fixed)}) "
                "are always the whole of their window; to crop it at random set crops.object_scale, for example 0.5"
            )
    objects = crops.needs_proposals or any(slot.instance for slot in slots.values())
    if objects and source.spec.startswith("shards:"):
        notes.append(
            "these photos were packed: with them their boxes became smaller, but not the pixels that crops and objects "
            "have at least; crops by objects show more of a photo than on the unpacked ones, the more it was reduced "
            "(`scenewise pack --short-side` larger keeps more)"
        )
    return notes


def part_of_process(config: RunConfig, *, world: int) -> int:
    """Return how many images a process computes at once; raises UserError when a batch cannot be dealt out evenly."""
    engine = config.engine
    shares = world * engine.accumulate
    if engine.batch_size % shares:
        nearest = max(1, round(engine.batch_size / shares)) * shares
        raise UserError(
            f"engine.batch_size: {engine.batch_size} cannot be divided by {world} processes x "
            f"{engine.accumulate} accumulated parts; nearest: {nearest}"
        )
    return engine.batch_size // shares


def make_schedule(config: RunConfig, images: int, *, world: int, rank: int) -> Schedule:
    """Return the schedule; raises UserError for a batch that the data or the processes cannot carry."""
    engine = config.engine
    part_of_process(config, world=world)
    if engine.batch_size > images:
        raise UserError(
            f"engine.batch_size: {engine.batch_size} is larger than the data set of {images} readable images; "
            f"use --batch-size {images} or less"
        )
    return Schedule(
        images=images,
        batch_size=engine.batch_size,
        accumulate=engine.accumulate,
        epochs=engine.epochs,
        seed=config.seed,
        world=world,
        rank=rank,
    )


def make_backbone(config: RunConfig, *, fresh: bool = True) -> tuple[Backbone, list[str]]:
    """Return the initial backbone and what to say of it: random weights from the seed, or those of `backbone.init`.

    Not `fresh`: weights from a checkpoint will follow, so `init` is not needed any more.
    """
    asked = config.backbone
    if asked.init is None or not fresh:
        created = create_backbone(
            asked.name or DEFAULT_BACKBONE,
            stem=asked.stem or "imagenet",
            norm=asked.norm or "batch",
            seed=config.seed,
            size=config.data.size,
        )
        return created, []
    subject = load_subject(asked.init, seed=config.seed, size=config.data.size)
    given = subject.backbone
    problems = [
        f"backbone.{field}: {wanted!r} was asked for, but {asked.init!r} is {found!r}; leave it out or use the same"
        for field, wanted, found in (
            ("name", asked.name, given.name),
            ("stem", asked.stem, given.stem),
            ("norm", asked.norm, given.norm),
        )
        if wanted is not None and wanted != found
    ]
    if problems:
        raise UserError(*problems)
    given.train()
    return given, [f"the backbone starts from {asked.init} instead of random weights", *subject.notes]


def loader_facts(plan: Plan) -> dict[str, float]:
    """Return what the advice on waiting for data has to know of a run's loader beside its times."""
    engine = plan.config.engine
    return {
        "workers": float(engine.workers or 0),
        "cores": float(cores_of_process()),
        "size": float(plan.config.data.size),
        "movable": float(engine.device == "cuda" and engine.photometrics != "device"),
    }


def take_batch_statistics(
    config: RunConfig, kind: type[Method], backbone: Backbone, *, world: int
) -> tuple[int | None, list[str]]:
    """Group the batch norm of a backbone where the method wants it; return the group and what to say of it."""
    group, notes = config.backbone.batchnorm_group, list[str]()
    if kind.batch_statistics == "groups" and backbone.norm == "batch":
        group, said = choose_group(group, batch=world * part_of_process(config, world=world), processes=world)
        group_batchnorm(backbone, group)
        # a backbone without batch norm (ViT) has nothing to group
        notes += said if any(isinstance(layer, GroupedBatchNorm) for layer in backbone.modules()) else []
    elif group is not None:
        reason = "group norm has none" if backbone.norm == "group" else f"{config.method} takes them over the whole run"
        notes.append(f"backbone.batchnorm_group {group} has no effect on batch statistics: {reason}")
    if kind.batch_statistics == "run" and config.engine.accumulate > 1:
        part = config.engine.batch_size // config.engine.accumulate
        notes.append(
            f"engine.accumulate: {config.method} compares and normalises the images of a part, "
            f"{part} of {config.engine.batch_size}, with one another only"
        )
    return group, notes


def make_plan(
    config: RunConfig,
    source: Source,
    *,
    world: int = 1,
    rank: int = 0,
    fresh: bool = True,
    folder: Path | None = None,
) -> Plan:
    """Decide every open value for this source; raises UserError with what cannot work.

    Not `fresh`: a checkpoint will fill the weights. folder: the run's, which may hold proposals of its own.
    """
    kind = method_class(config.method)
    schedule = make_schedule(config, len(source), world=world, rank=rank)
    notes: list[str] = list(source.notes)
    method_config, said = kind.resolve(config.method_config, images=len(source), batch_size=config.engine.batch_size)
    notes += said
    optimiser, said = decide_optimiser(config.optimiser, kind, epochs=config.engine.epochs)
    notes += said
    crops, proposals, said = choose_crops(config.crops, config.data.proposals, source, folder=folder)
    notes += said
    slots = scale_slots(kind.slots(method_config), config.data.size)
    cut_by = config.data.proposals if proposals is None else config.data.proposals or "packed"
    notes += unused_objects(crops, cut_by, slots, method_config)
    notes += object_notes(crops, slots, source)
    backbone, said = make_backbone(config, fresh=fresh)
    notes += said
    backbone.weights = dataclasses.replace(
        backbone.weights,
        mean=config.data.mean or backbone.weights.mean,
        std=config.data.std or backbone.weights.std,
    )
    backbone.check_size(*(slot.size for slot in slots.values()))
    group, said = take_batch_statistics(config, kind, backbone, world=world)
    notes += said
    notes += slow_teachers(method_config, steps=schedule.steps)
    if schedule.dropped:
        notes.append(
            f"{schedule.dropped} of {len(source)} images are left out of each epoch (no full batch), others each time"
        )
    config = dataclasses.replace(
        config,
        crops=crops,
        data=dataclasses.replace(config.data, source=source.spec, mean=backbone.weights.mean, std=backbone.weights.std),
        method_config=method_config,
        optimiser=optimiser,
        engine=decide_engine(config.engine),
        backbone=dataclasses.replace(
            config.backbone, name=backbone.name, stem=backbone.stem, norm=backbone.norm, batchnorm_group=group
        ),
    )
    method = build_method(kind, method_config, backbone, seed=config.seed)
    if config.engine.device == "cpu" and config.engine.precision == "bf16":
        widen_one_pixel(method)
    if world > 1:  # what is not in groups belongs to the run: backbones, heads and their teachers
        assert config.engine.device != "auto", "decided above"
        synchronise_batchnorm(method, config.engine.device)
    return Plan(
        config=config,
        source=source,
        method=method,
        backbone=backbone,
        slots=slots,
        proposals=proposals,
        schedule=schedule,
        peak_lr=peak_learning_rate(optimiser, config.engine.batch_size),
        notes=tuple(notes),
    )


def build_method(kind: type[Method], config: Any, backbone: Backbone, *, seed: int) -> Method:
    """Return the method with heads initialised from the seed, whatever torch's global state is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(keys.integer(seed, "weights", "heads"))
        return kind(config, backbone, backbone.width, seed=seed)
