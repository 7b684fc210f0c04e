"""The configuration of a run: frozen dataclasses, unknown keys refused, all errors at once.

Precedence: defaults < recipe < `--config` < flags < `--set`. `RunConfig` is what was asked for; `engine.plan` decides
what was left open.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import yaml
from annotated_types import Ge, Gt, Le, Unit
from pydantic import BeforeValidator

from scenewise.backbones.create import check_name
from scenewise.engine.config_tree import Tree
from scenewise.errors import UserError
from scenewise.methods import method_class
from scenewise.settings import Count, CountOrZero, NotNegative, Positive, Share, read_fields
from scenewise.views.policies import policy_class, policy_name


def _number_as_text(value: Any) -> Any:
    return str(value) if type(value) is int else value


# --set and YAML read 32 as a number
Precision = Annotated[Literal["auto", "32", "bf16"], BeforeValidator(_number_as_text)]
MAX_SKIPPED = 0.01  # the contract's
Spread = Annotated[float, Gt(0), Le(1)]  # a standard deviation of values 0..1


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """What is read and how it is cut."""

    source: str  # a folder, or kind:path[?option=value&...]
    # object proposals: a file of `scenewise propose`; auto: made first, kept in the run folder; labels: the labelled
    # boxes (for ablations only); None: none
    proposals: str | None = None
    # pixels of a full view; small crops, patches and blur scale with it
    size: Annotated[int, Ge(16), Unit("pixels")] = 224
    # of RGB in 0..1, subtracted and divided by; None: those of the initial weights (ImageNet's, when they are random)
    mean: tuple[Share, Share, Share] | None = None
    std: tuple[Spread, Spread, Spread] | None = None
    # share of distinct bad images over all at which a run stops; one bad image is always allowed
    max_skipped: Share = MAX_SKIPPED


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneConfig:
    """The network that is trained."""

    # as timm names it; None: resnet50 (all five papers use it), or the architecture of `init`; so are stem and norm
    name: str | None = None
    # imagenet; cifar: 3x3, no max pooling (MoCo's CIFAR notebook); cifar-pool: 3x3 with it (MSVQ on 64-pixel images)
    stem: str | None = None
    norm: str | None = None  # batch, or group
    # images that share batch statistics in the queue methods; None: 32 (MoCo: 256 images on 8 GPUs)
    batchnorm_group: Annotated[int, Ge(2)] | None = None
    init: str | None = None  # a subject whose weights to start from: a run, a file, timm:NAME, torchvision:NAME


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimiserConfig:
    """The optimiser. None: the method's published value."""

    name: Literal["sgd", "lars", "adam", "adamw"] | None = None
    lr: NotNegative | None = None  # for 256 images a step; `scaling` fits it to the batch
    scaling: Literal["linear", "sqrt", "none"] = "linear"  # Goyal et al. 2017
    momentum: Share = 0.9  # of SGD and LARS, in every paper here
    weight_decay: NotNegative | None = None
    exclude_norm_and_bias: bool | None = None  # from weight decay and LARS's trust ratio
    # cosine: per step (ReSSL, SwAV, BYOL); cosine_epoch: constant within an epoch (MoCo, DenseCL, MSF)
    schedule: Literal["cosine", "cosine_epoch", "constant"] | None = None
    warmup_epochs: NotNegative | None = None  # None: the published length, at most a tenth of the run
    warmup_start: Share | None = None  # share of the peak at the first step
    final_lr: Share | None = None  # share of the peak at the end
    clip_gradient: Positive | None = None  # largest global gradient norm


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """How the run is carried out."""

    epochs: CountOrZero = 200  # the papers' short schedule
    batch_size: Annotated[int, Ge(2)] = 256  # global, over all processes and accumulated parts
    accumulate: Count = 1  # parts a step's batch is computed in; queues move after each part
    precision: Precision = "auto"  # auto: bf16 where the device computes in it
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # where views are flipped, coloured and blurred: by the loader or by the device that trains; auto: on a GPU
    photometrics: Literal["auto", "cpu", "device"] = "auto"
    workers: CountOrZero | None = None  # loader processes; None: one a core, at most 8
    threads: Count | None = None  # of the main process on CPU; None: one a core (recorded: results depend on it)
    channels_last: bool = True
    # torch.compile of the backbones, images to last map, and of what the device does to views: no graph breaks
    compile: bool = False
    # steps between checkpoints; None: at the end of an epoch, as far as a twentieth of the time is enough for saving
    checkpoint_steps: Count | None = None
    tensorboard: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeConfig:
    """A small labelled set watched during training: kNN between two halves of its training split."""

    data: str | None = None
    limit: Annotated[int, Ge(20)] = 2000  # images used
    every: Count = 1  # epochs between two looks


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Everything a run depends on.

    `method_config` is the named method's own Config; in YAML both live under `method`. `crops` is a region policy; in
    YAML its name and its fields live under `crops`.
    """

    data: DataConfig
    method: str
    method_config: Any
    crops: Any
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    seed: int = 0


SECTIONS: Mapping[str, type[Any]] = {
    "data": DataConfig,
    "backbone": BackboneConfig,
    "optimiser": OptimiserConfig,
    "engine": EngineConfig,
    "probe": ProbeConfig,
}

# what --resume may change: where and how fast the same steps are computed, and what is written about them
RESUMABLE = {"engine.device", "engine.workers", "engine.tensorboard"}


def build(tree: Mapping[str, Any], *, example: str = "`scenewise pretrain PHOTOS --out RUN`") -> RunConfig:
    """Return the validated configuration of a merged tree; raises UserError with every problem at once.

    example: how images are named, for the error where none are.
    """
    known = [*SECTIONS, "method", "crops", "seed"]
    problems = [_unknown(str(name), known) for name in tree if name not in known]
    given = tree.get("method")
    if given is not None and not isinstance(given, Mapping):
        problems.append(f"method: {given!r} must be a section; write method.name={given}, or --method {given}")
    method = dict(given) if isinstance(given, Mapping) else {}
    name = method.pop("name", None)
    parts: Tree = {}
    usual = "scene"
    if name is None and (given is None or isinstance(given, Mapping)):
        problems.append("method: say which one, for example --method mls (`scenewise methods` lists them)")
    elif name is not None:
        try:
            parts["method_config"] = _section("method", method_class(str(name)).Config, method, problems)
            usual = method_class(str(name)).crops
        except UserError as error:
            problems.extend(error.problems)
    try:
        parts["crops"] = _crops(tree.get("crops"), usual, problems)
    except UserError as error:
        problems.extend(error.problems)
    for section, kind in SECTIONS.items():
        value = tree.get(section)
        value = {} if value is None else value
        if not isinstance(value, Mapping):
            problems.append(f"{section}: must be a section of name: value lines")
            continue
        if section == "data" and "source" not in value:
            problems.append(f"data.source: say which images, for example {example}")
        parts[section] = _section(section, kind, value, problems)
    seed = tree.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        problems.append(f"seed: {seed!r} must be a whole number, 0 or more")
    if problems:
        raise UserError(*problems, *_wrong_names(parts))
    return RunConfig(method=str(name), seed=seed, **parts)


def _wrong_names(parts: Mapping[str, Any]) -> list[str]:
    """Return the problems with names that are otherwise judged later, so that all that is wrong is told at once."""
    backbone = parts.get("backbone")
    problems: list[str] = []
    try:
        if backbone is not None and backbone.name is not None:
            check_name(backbone.name)
    except UserError as error:
        problems += error.problems
    return problems


def _crops(value: Any, usual: str, problems: list[str]) -> Any:
    """Return the region policy of the section `crops`, the method's usual one unless it is named."""
    if value is not None and not isinstance(value, Mapping):
        problems.append(f"crops: {value!r} must be a section; write crops.name={value}, or --crops {value}")
        return None
    settings = dict(value or {})
    name = settings.pop("name", None)
    return _section("crops", policy_class(usual if name is None else str(name)), settings, problems)


def _section(section: str, kind: type[Any], given: Mapping[str, Any], problems: list[str]) -> Any:
    """Return the dataclass of one section; None, and what is wrong to the problems, where it cannot be made."""
    fields = {entry.name: entry for entry in dataclasses.fields(kind)}
    found = [_unknown(name, list(fields), section=f"{section}.") for name in given if name not in fields]
    values, wrong = read_fields(kind, {name: given[name] for name in given if name in fields})
    found += [f"{section}.{name}: {sentence}" for name, sentence in wrong]
    built = None
    if all(name in values or entry.default is not dataclasses.MISSING for name, entry in fields.items()):
        try:  # with what can be read, so that all that is wrong is told at once
            built = kind(**values)
        except UserError as error:
            found += error.problems
    problems += found
    return None if found else built


def _unknown(name: str, allowed: Sequence[str], *, section: str = "") -> str:
    # without the section, which all have in common
    near = difflib.get_close_matches(name.lower(), allowed, n=1, cutoff=0.5)
    hint = f" Did you mean {section + near[0]!r}?" if near else ""
    return f"{section}{name}: no such setting.{hint} Known: {', '.join(section + known for known in allowed)}"


def to_tree(config: RunConfig) -> Tree:
    """Return the configuration as plain sections, as `config.yaml` holds it."""
    content = dataclasses.asdict(config)
    method = {"name": config.method, **content["method_config"]}
    crops = {"name": policy_name(config.crops), **content["crops"]}
    named = {"seed": config.seed, "method": method, "crops": crops}
    return named | {section: content[section] for section in SECTIONS}


def to_yaml(config: RunConfig) -> str:
    """Return `config.yaml`'s text."""
    return yaml.safe_dump(to_tree(config), sort_keys=False, allow_unicode=True)


def flatten(config: RunConfig) -> dict[str, Any]:
    """Return every setting by its dotted name."""
    return {
        f"{section}.{name}": value
        for section, values in to_tree(config).items()
        if isinstance(values, dict)
        for name, value in values.items()
    } | {"seed": config.seed}
