"""A subject of evaluation or export: any weights a user can name in one word, with the preprocessing they expect."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlparse

import timm
import torch
import torchvision
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError

from scenewise.backbones.backbone import Backbone, Colour, WeightsInfo
from scenewise.backbones.create import (
    DEFAULT_SIZE,
    check_name,
    create_backbone,
    default_size,
    model_options,
    pretrained_config,
    wrap,
)
from scenewise.backbones.weights import fill, load_weights, without_classifier
from scenewise.errors import MissingError, UserError, unknown_name

FORMS = "a run folder, a weights file, random:NAME, timm:NAME, torchvision:NAME"
MIN_SIZE = 16  # px, as for `data.size` of a run (engine/config.py)
HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # how timm's weights are called on the Hugging Face hub

# The architectures that timm and torchvision share, key by key.
SHARED_WITH_TORCHVISION = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)


@dataclass(frozen=True, slots=True)
class Subject:
    """A backbone in evaluation mode and what it expects.

    name: as the user wrote it. size: side in pixels of its images. mean, std: their normalisation.
    notes: what the reader of a table should know of it.
    """

    backbone: Backbone
    name: str
    size: int
    mean: Colour
    std: Colour
    notes: tuple[str, ...] = ()


def load_subject(text: str, *, seed: int = 0, size: int | None = None) -> Subject:
    """Return what `text` names: a run folder, a weights file, `random:NAME`, `timm:NAME` or `torchvision:NAME`.

    A weights file without Scenewise's metadata says its architecture behind it: `FILE?name=resnet50`, also
    `&stem=cifar`, `&norm=group`, `&size=96`. seed: of random weights. size: side in pixels to use it at, instead of the
    one it was trained at. Published weights are read from this machine's caches only, never fetched.
    Raises UserError for what does not fit and for a size below `MIN_SIZE`, MissingError (one too) for weights that are
    not on this machine.
    """
    kind, colon, name = text.partition(":")
    if not text:
        raise UserError(f"subject: no name given. Allowed: {FORMS}")
    if size is not None and size < MIN_SIZE:
        raise UserError(f"size: {size} px is too small; at least {MIN_SIZE} px")
    if Path(text).exists() or not colon or "/" in kind or len(kind) == 1:  # one letter: a Windows drive
        backbone, notes = _from_file(text)
    elif kind in _KINDS:
        backbone, notes = _KINDS[kind](name, seed, size)
    else:
        raise UserError(f"{unknown_name('subject', kind + ':', [known + ':' for known in _KINDS])}. Allowed: {FORMS}")
    if size is not None and size != backbone.weights.size:
        notes = (*notes, *_other_size(backbone.weights.size, size))
        backbone.use_size(size)
    info = backbone.weights
    return Subject(backbone.eval(), text, info.size, info.mean, info.std, notes)


def _from_file(text: str) -> tuple[Backbone, tuple[str, ...]]:
    path, _, query = (text, "", "") if Path(text).exists() else text.partition("?")
    if not Path(path).exists():
        raise MissingError(f"subject: {path!r} is no file or folder here. Allowed: {FORMS}")
    options = dict(parse_qsl(query, keep_blank_values=True))
    for option in options:
        if option not in ("name", "stem", "norm", "size"):
            raise UserError(unknown_name("subject", option, ("name", "stem", "norm", "size")))
    if not options.get("size", "1").isdecimal():
        raise UserError(f"subject: size={options['size']!r} is not a number of pixels")
    if int(options.get("size", MIN_SIZE)) < MIN_SIZE:
        raise UserError(f"subject: size={options['size']!r} is too small; at least {MIN_SIZE} px, or leave it out")
    return load_weights(
        path,
        name=options.get("name"),
        stem=options.get("stem", "imagenet"),
        norm=options.get("norm", "batch"),
        size=int(options["size"]) if "size" in options else None,
    )


def _random(name: str, seed: int, size: int | None) -> tuple[Backbone, tuple[str, ...]]:
    return create_backbone(name, seed=seed, size=size), (f"random weights of seed {seed}",)


def _timm(name: str, _seed: int, size: int | None) -> tuple[Backbone, tuple[str, ...]]:
    check_name(name)
    config = pretrained_config(name)
    if not config.hf_hub_id and not config.url:
        raise UserError(f"subject: timm has no published weights for {name!r}; for random ones use random:{name}")
    file = _cached_from_hub(config.hf_hub_id) or _cached_from_url(config.url)
    if file is None:
        raise MissingError(
            f"subject: the weights of timm:{name} are not on this disk, and nothing is fetched. Where there is a "
            f"network run timm.create_model({name!r}, pretrained=True) once (it fills the Hugging Face cache; copy "
            f"that folder here, HF_HOME), or give the file itself: FILE.safetensors?name={name}"
        )
    # Loaded with its classifier, hence strictly: without one timm accepts a file that fits in part.
    overlay = {"file": str(file), "custom_load": file.suffix == ".npz"}
    options = model_options(name, norm="batch", size=size)
    try:
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except (RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise UserError(f"weights: {file} is damaged or does not fit {name!r}: {error}") from error
    model.reset_classifier(0)
    info = WeightsInfo(
        size or default_size(name), tuple(config.mean), tuple(config.std), f"timm {config.architecture}.{config.tag}"
    )
    backbone = wrap(model, name=name, stem="imagenet", norm="batch", size=size, weights=info)
    return backbone, (f"published weights {config.architecture}.{config.tag}", *_other_size(default_size(name), size))


def _torchvision(name: str, _seed: int, size: int | None) -> tuple[Backbone, tuple[str, ...]]:
    architecture, _, tag = name.partition(".")
    if architecture not in SHARED_WITH_TORCHVISION:
        raise UserError(unknown_name("subject torchvision", architecture, SHARED_WITH_TORCHVISION))
    published = torchvision.models.get_model_weights(architecture)
    if tag and tag not in published.__members__:
        raise UserError(unknown_name(f"subject torchvision:{architecture}", tag, published.__members__))
    weights = published[tag] if tag else published.DEFAULT
    file = _cached_from_url(weights.url)
    if file is None:
        raise MissingError(
            f"subject: the weights of torchvision:{name} ({weights}) are not on this disk, and nothing is fetched. "
            f"Place {Path(urlparse(weights.url).path).name} in {torch.hub.get_dir()}/checkpoints (TORCH_HOME)"
        )
    state = without_classifier(torch.load(file, map_location="cpu", weights_only=True), architecture)
    backbone = create_backbone(architecture, seed=0)
    backbone.weights = WeightsInfo(DEFAULT_SIZE, method=f"torchvision {weights}")
    fill(backbone, state, source=str(file))
    return backbone, (f"published weights {weights}",)


def _other_size(made_for: int, size: int | None) -> tuple[str, ...]:
    return () if size in (None, made_for) else (f"made for images of {made_for} px, used at {size} px",)


def _cached_from_hub(repository: str | None) -> Path | None:
    """Return the file in the Hugging Face cache, which is looked into and nothing more."""
    if not repository:
        return None
    found = (try_to_load_from_cache(repository, file) for file in HUB_FILES)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def _cached_from_url(url: str | None) -> Path | None:
    """Return the file in torch's hub cache; UserError when its name holds a checksum that it does not have."""
    if not url:
        return None
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not file.is_file():
        return None
    checksum = torch.hub.HASH_REGEX.search(file.name)
    if checksum and not hashlib.sha256(file.read_bytes()).hexdigest().startswith(checksum.group(1)):
        raise UserError(f"weights: {file} is damaged (its checksum is not the one in its name); fetch it again")
    return file


_KINDS: dict[str, Callable[[str, int, int | None], tuple[Backbone, tuple[str, ...]]]] = {
    "random": _random,
    "timm": _timm,
    "torchvision": _torchvision,
}
