"""The configuration of a run: frozen dataclasses, unknown keys refused, all errors at once.

Precedence: defaults < recipe < `--config` < flags < `--set`. `RunConfig` is what was asked for; `engine.plan` decides
what was left open.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, TypeAdapter, ValidationError

from scenewise.backbones.create import check_name
from scenewise.errors import UserError
from scenewise.methods import method_class
from scenewise.views.policies import policy_class, policy_name


def _number_as_text(value: Any) -> Any:
    return str(value) if type(value) is int else value


# --set and YAML read 32 as a number
Precision = Annotated[Literal["auto", "32", "bf16"], BeforeValidator(_number_as_text)]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """What is read and how it is cut."""

    source: str  # a folder, or kind:path[?option=value&...]
    # object proposals: a file of `scenewise propose`; auto: made first, kept in the run folder; labels: the labelled
    # boxes (for ablations only); None: none
    proposals: str | None = None
    size: int = 224  # pixels of a full view; small crops, patches and blur scale with it
    # of RGB in 0..1, subtracted and divided by; None: those of the initial weights (ImageNet's, when they are random)
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    max_skipped: float = (
        0.01  # share of distinct bad images over all at which a run stops; one bad image is always allowed
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneConfig:
    """The network that is trained."""

    # as timm names it; None: resnet50 (all five papers use it), or the architecture of `init`; so are stem and norm
    name: str | None = None
    # imagenet; cifar: 3x3, no max pooling (MoCo's CIFAR notebook); cifar-pool: 3x3 with it (MSVQ on 64-pixel images)
    stem: str | None = None
    norm: str | None = None  # batch, or group
    # images that share batch statistics in the queue methods; None: 32 (MoCo: 256 images on 8 GPUs)
    batchnorm_group: int | None = None
    init: str | None = None  # a subject whose weights to start from: a run, a file, timm:NAME, torchvision:NAME


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimiserConfig:
    """The optimiser. None: the method's published value."""

    name: Literal["sgd", "lars", "adam", "adamw"] | None = None
    lr: float | None = None  # for 256 images a step; `scaling` fits it to the batch
    scaling: Literal["linear", "sqrt", "none"] = "linear"  # Goyal et al. 2017
    momentum: float = 0.9  # of SGD and LARS, in every paper here
    weight_decay: float | None = None
    exclude_norm_and_bias: bool | None = None  # from weight decay and LARS's trust ratio
    # cosine: per step (ReSSL, SwAV, BYOL); cosine_epoch: constant within an epoch (MoCo, DenseCL, MSF)
    schedule: Literal["cosine", "cosine_epoch", "constant"] | None = None
    warmup_epochs: float | None = None  # None: the published length, at most a tenth of the run
    warmup_start: float | None = None  # share of the peak at the first step
    final_lr: float | None = None  # share of the peak at the end
    clip_gradient: float | None = None  # largest global gradient norm


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """How the run is carried out."""

    epochs: int = 200  # the papers' short schedule
    batch_size: int = 256  # global, over all processes and accumulated parts
    accumulate: int = 1  # parts a step's batch is computed in; queues move after each part
    precision: Precision = "auto"  # auto: bf16 where the device computes in it
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # where views are flipped, coloured and blurred: by the loader or by the device that trains; auto: on a GPU
    photometrics: Literal["auto", "cpu", "device"] = "auto"
    workers: int | None = None  # loader processes; None: one a core, at most 8
    threads: int | None = None  # of the main process on CPU; None: one a core (recorded: results depend on it)
    channels_last: bool = True
    compile: bool = False  # torch.compile of the backbones
    checkpoint_steps: int | None = None  # steps between checkpoints; None: each epoch
    tensorboard: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeConfig:
    """A small labelled set watched during training: kNN between two halves of its training split."""

    data: str | None = None
    limit: int = 2000  # images used
    every: int = 1  # epochs between two looks


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

Tree = dict[str, Any]

# limits that types cannot say: dotted name -> (test, what is allowed)
_LIMITS: Mapping[str, tuple[typing.Callable[[Any], bool], str]] = {
    "data.size": (lambda value: value >= 16, "at least 16 pixels"),
    "data.max_skipped": (lambda value: 0 <= value <= 1, "a share, 0 to 1"),
    "data.std": (lambda value: min(value) > 0, "three numbers above 0"),
    "engine.epochs": (lambda value: value >= 0, "0 or more"),
    "engine.batch_size": (lambda value: value >= 2, "at least 2"),
    "engine.accumulate": (lambda value: value >= 1, "at least 1"),
    "engine.workers": (lambda value: value >= 0, "0 or more"),
    "engine.threads": (lambda value: value >= 1, "at least 1"),
    "engine.checkpoint_steps": (lambda value: value >= 1, "at least 1"),
    "backbone.batchnorm_group": (lambda value: value >= 2, "at least 2"),
    "optimiser.lr": (lambda value: value >= 0, "0 or more"),
    "optimiser.weight_decay": (lambda value: value >= 0, "0 or more"),
    "optimiser.warmup_epochs": (lambda value: value >= 0, "0 or more"),
    "optimiser.warmup_start": (lambda value: 0 <= value <= 1, "a share of the peak, 0 to 1"),
    "optimiser.final_lr": (lambda value: 0 <= value <= 1, "a share of the peak, 0 to 1"),
    "optimiser.clip_gradient": (lambda value: value > 0, "more than 0"),
    "probe.limit": (lambda value: value >= 20, "at least 20"),
    "probe.every": (lambda value: value >= 1, "at least 1"),
    "method.temperature": (lambda value: value > 0, "more than 0"),
    "method.term_temperature": (lambda value: value > 0, "more than 0"),
    "method.momentum": (lambda value: 0 <= value <= 1, "0 to 1"),
    "method.width": (lambda value: value >= 1, "at least 1"),
    "method.dictionary_size": (lambda value: value >= 0, "0 or more"),
    "method.k": (lambda value: value >= 0, "0 or more"),
    "method.epsilon": (lambda value: value > 0, "more than 0"),
    "method.iterations": (lambda value: value >= 1, "at least 1"),
    "method.hidden": (lambda value: value >= 1, "at least 1"),
    "method.freeze_epochs": (lambda value: value >= 0, "0 or more"),
    "method.queue_epochs": (lambda value: value >= 0, "0 or more"),
    "method.second_momentum": (lambda value: 0 <= value <= 1, "0 to 1"),
    "method.teacher_temperature": (lambda value: value > 0, "more than 0"),
    "method.bins": (lambda value: value >= 1, "at least 1"),
    "method.views": (lambda value: 1 <= value <= 64, "1 to 64"),
    "method.small_views": (lambda value: 0 <= value <= 64, "0 to 64"),
    "method.small_crops": (lambda value: 0 <= value <= 64, "0 to 64"),
    "method.instances": (lambda value: 1 <= value <= 64, "1 to 64"),
    "method.warmup": (lambda value: value >= 0, "0 or more"),
}


def read_yaml(path: Path) -> Tree:
    """Return the tree of a configuration file, read with the safe loader; raises UserError when it cannot be read."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config: cannot read {str(path)!r}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config: {str(path)!r} is not YAML: {' '.join(str(error).split())[:200]}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"--config: {str(path)!r} must hold sections such as `data:` and `method:`")
    return _with_words(tree)


def _with_words(tree: Mapping[Any, Any]) -> Tree:
    """Return the tree with every key as text: YAML has keys of other types, no setting does."""
    return {str(key): _with_words(value) if isinstance(value, dict) else value for key, value in tree.items()}


def assign(tree: Tree, name: str, value: Any) -> None:
    """Set a dotted name in a tree, making the sections on the way; a mapping sets each of its entries."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            assign(tree, f"{name}.{key}", entry)
        return
    *sections, last = name.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise UserError(f"--set {name}: {section!r} is a value, not a section")
    tree[last] = value


def flat_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Return `--set name=value` arguments by dotted name; values are YAML scalars.

    Raises UserError for all that cannot be read.
    """
    flat: dict[str, Any] = {}
    problems = []
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name.strip():
            problems.append(f"--set {setting!r}: write name=value, for example --set method.k=10")
            continue
        try:
            flat[name.strip()] = _scalar(text)
        except yaml.YAMLError:
            problems.append(f"--set {setting!r}: the value cannot be read")
    if problems:
        raise UserError(*problems)
    return flat


def _scalar(text: str) -> Any:
    value = yaml.safe_load(text)
    if isinstance(value, str) and value == text.strip():  # YAML 1.1 reads 1e-4 as a word; what is quoted stays one
        try:
            return float(value)
        except ValueError:
            return value
    return value


def merge(*trees: Mapping[str, Any]) -> Tree:
    """Return the trees merged section by section; later ones win.

    Another method's name drops the former method's settings, and the optimiser that was chosen for it; another region
    policy's name drops the former policy's settings.
    """
    merged: Tree = {}
    for tree in trees:
        if _renamed(merged, tree, "method"):
            merged.pop("method")
            merged.pop("optimiser", None)
        if _renamed(merged, tree, "crops"):
            merged.pop("crops")
        for key, value in tree.items():
            if not isinstance(value, Mapping):
                merged[key] = value
                continue
            merged[key] = dict(merged.get(key) or {}) | dict(value)
    return merged


def _renamed(merged: Tree, tree: Mapping[str, Any], section: str) -> bool:
    """Return whether the tree names another method, or another region policy, than what is merged so far."""
    given = tree.get(section)
    name = given.get("name") if isinstance(given, Mapping) else None
    former = merged.get(section)
    return name is not None and isinstance(former, Mapping) and former.get("name", name) != name


def build(tree: Mapping[str, Any]) -> RunConfig:
    """Return the validated configuration of a merged tree; raises UserError with every problem at once."""
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
        elif section == "data" and "source" not in value:
            problems.append("data.source: say which images, for example `scenewise pretrain PHOTOS --out RUN`")
            _section(section, kind, {"source": "", **value}, problems)
        else:
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


def _section(section: str, kind: type[Any], value: Mapping[str, Any], problems: list[str]) -> Any:
    """Validate one section; append its problems and return the dataclass, or None where there are any."""
    names = [entry.name for entry in dataclasses.fields(kind)]
    unknown = [name for name in value if name not in names]
    found = [_unknown(name, names, section=f"{section}.") for name in unknown]
    given = {name: value[name] for name in value if name in names}
    built, wrong = _typed(kind, given)
    for name, message in wrong:
        told = f"{section}.{name}: {message}" if name else f"{section}: {message}"
        if told not in found:
            found.append(told)
    if built is None:  # what can be read is judged by its limits too, so that all that is wrong is told at once
        mistaken = {name for name, _ in wrong}
        built, _ = _typed(kind, {name: given[name] for name in given if name not in mistaken})
    if built is not None:
        for name, setting in dataclasses.asdict(built).items():
            dotted = f"{section}.{name}"
            if isinstance(setting, float) and not math.isfinite(setting):
                found.append(f"{dotted}: {setting!r} must be a finite number")
            elif setting is not None and dotted in _LIMITS and not _LIMITS[dotted][0](setting):
                found.append(f"{dotted}: {setting!r} must be {_LIMITS[dotted][1]}")
    problems.extend(found)
    return None if found else built


def _typed(kind: type[Any], given: Mapping[str, Any]) -> tuple[Any, list[tuple[str, str]]]:
    """Return the dataclass of these values, or None and what is wrong: (field, message) each."""
    try:
        return TypeAdapter(kind).validate_python(dict(given)), []
    except ValidationError as error:
        return None, [problem for item in error.errors() for problem in _problems(item)]


def _problems(item: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (field, message) of one of pydantic's errors, or of each problem that the dataclass or a field found."""
    refused = item.get("ctx", {}).get("error")
    if isinstance(refused, UserError):
        named = (problem.partition(": ") for problem in refused.problems)
        at = str(item["loc"][0]) if item["loc"] else None  # where the dataclass found it, the problem names the field
        return [(at or name.rpartition(".")[2], message) for name, _, message in named]
    return [(str(item["loc"][0]) if item["loc"] else "", f"{item['input']!r}: {item['msg'].lower()}")]


def _unknown(name: str, allowed: Sequence[str], *, section: str = "") -> str:
    near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)  # without the section, which all have in common
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
