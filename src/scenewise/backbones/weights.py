"""The weights file: timm's key names in safetensors, with what must be known to use them in the metadata."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import timm
import torch
from timm.models import VisionTransformer
from torch import Tensor

from scenewise.backbones.backbone import NORMS, STEMS, Backbone, Colour, WeightsInfo
from scenewise.backbones.create import check_name, create_backbone, default_size, pretrained_config
from scenewise.backbones.foreign import COUNTERS, check_same_network, find_backbone, notes_on
from scenewise.backbones.foreign_styles import PLAIN
from scenewise.errors import MissingError, UserError, unknown_name

WEIGHTS_FILE = "backbone.safetensors"  # its name in a run folder
PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".torch")  # read with weights_only=True
HEADS = ("fc", "head", "classifier")  # how classifiers are usually called
_SHOWN = 80  # characters of a stranger's text in an error
LISTED = 6  # keys named in an error before it says how many more


def save_backbone(path: Path | str, backbone: Backbone, *, size: int, mean: Colour, std: Colour, method: str) -> None:
    """Write the backbone alone, atomically: the file is whole or is what it was before.

    size: side in pixels of the training images, for a ViT the one it was made for (`use_size`). mean, std: their
    normalisation. method: what trained the weights.
    Identical weights give identical bytes. Raises OSError when the disk is full or the folder may not be written.
    """
    assert size == backbone.weights.size or not isinstance(backbone.model, VisionTransformer), "see use_size"
    metadata = {
        "name": backbone.name,
        "size": str(size),
        "mean": json.dumps(list(mean)),
        "std": json.dumps(list(std)),
        "method": method,
        "stem": backbone.stem,
        "norm": backbone.norm,
        "width": str(backbone.width),
        "scenewise": version("scenewise"),
    }
    write_atomically(Path(path), safetensors_bytes(plain_state(backbone), metadata))


def plain_state(backbone: Backbone) -> dict[str, Tensor]:
    """Return the weights under timm's key names, on the CPU, contiguous."""
    state = backbone.model.state_dict()
    return {key: value.detach().to("cpu").contiguous() for key, value in state.items()}


def safetensors_bytes(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file whose bytes depend on the content only.

    The library writes the metadata in an order that differs between processes, so the header is written again, sorted.
    """
    content: bytes = safetensors.torch.save(dict(state), dict(metadata))
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned to 8 bytes
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary name beside `path`, sync, rename; nothing is left behind when that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_backbone(
    path: Path | str,
    *,
    name: str | None = None,
    stem: str = "imagenet",
    norm: str = "batch",
    size: int | None = None,
) -> Backbone:
    """Return the backbone of a run folder or weights file, in evaluation mode; `.weights` says what it expects.

    A file that Scenewise wrote says all itself. Another project's (`.safetensors`, or `.pt`, `.pth`, `.pth.tar`,
    `.bin`, `.ckpt`, `.torch` read as tensors only) needs `name`, unless its entry `arch` is a name that timm knows (as
    in MoCo's), and `stem`, `norm`, `size` where they are not the usual ones. Under which names the backbone is in it is
    found out (`foreign_styles`); classifier, projector, queue and other encoders are left out. Raises
    UserError for a file that is missing, unreadable or does not fit key by key.
    """
    return load_weights(path, name=name, stem=stem, norm=norm, size=size)[0]


def load_weights(
    path: Path | str,
    *,
    name: str | None = None,
    stem: str = "imagenet",
    norm: str = "batch",
    size: int | None = None,
) -> tuple[Backbone, tuple[str, ...]]:
    """Return `load_backbone`'s backbone, and what was read of another project's file and what left out."""
    file = _find(Path(path))
    content, metadata = _read(file)
    if "scenewise" not in metadata:
        return _load_foreign(file, content, name, stem, norm, size)
    known, stem, norm, info = _parse(file, metadata)
    if name is not None and name != known:
        raise UserError(f"name: {file} holds {known!r}, not {name!r}")
    try:
        backbone = create_backbone(known, stem=stem, norm=norm, seed=0, size=info.size)
    except UserError as error:
        raise UserError(*(f"weights: {file}: {problem}" for problem in error.problems)) from error
    backbone.weights = info
    fill(backbone, content, source=str(file))
    return backbone.eval(), ()


def _load_foreign(
    file: Path, content: Mapping[str, Any], name: str | None, stem: str, norm: str, size: int | None
) -> tuple[Backbone, tuple[str, ...]]:
    said: tuple[str, ...] = ()
    if name is None:
        name = _named_architecture(file, content)
        said = (f"the file names its architecture: arch {name!r}",)
    check_name(name)
    config = pretrained_config(name)
    backbone = create_backbone(name, stem=stem, norm=norm, seed=0, size=size or default_size(name))
    backbone.weights = WeightsInfo(backbone.weights.size, tuple(config.mean), tuple(config.std), method=file.name)
    found = find_backbone(content, backbone.model.state_dict(), source=str(file))
    check_same_network(found, name)
    closest = "" if found.style is PLAIN else f" (closest style: {found.shown()})"
    fill(backbone, found.state, source=f"{file}{closest}")
    return backbone.eval(), (*notes_on(found, name, _classifier(name)), *said)


def _named_architecture(file: Path, content: Mapping[str, Any]) -> str:
    """Return the architecture that a training script wrote beside the weights: torchvision's names are timm's."""
    arch, why = content.get("arch"), ""
    if isinstance(arch, str):
        try:
            check_name(arch)
        except UserError:
            why = "\n" + unknown_name("Its entry arch", arch[:_SHOWN], timm.list_models())
        else:
            return arch
    raise UserError(
        f"weights: {file} does not say which architecture it holds; name it, for example {file}?name=resnet50{why}"
    )


def fill(backbone: Backbone, state: Mapping[str, Tensor], *, source: str) -> None:
    """Copy a state dict with timm's keys into the backbone.

    UserError lists every key that does not fit, that holds no plain tensor of floating-point numbers, or that holds
    values which are not finite in float32.
    """
    expected = backbone.model.state_dict()
    strange = [
        f"{key} ({_strange(state[key], value)})" for key, value in expected.items() if _strange(state.get(key), value)
    ]
    if strange:
        raise UserError(
            f"weights: {source} must hold dense tensors of floating-point numbers, and does not in these entries: "
            f"{_listed(strange)}; save the state dict of the float32 model"
        )
    missing = [key for key in expected if key not in state and not key.endswith(COUNTERS)]
    unexpected = [key for key in state if key not in expected]
    reshaped = [
        f"{key} {tuple(state[key].shape)} for {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if missing or reshaped:  # a classifier is no reason for these
        heads = [f"{head}." for head in (*_classifier(backbone.name), *HEADS)]
        heads = [head for head in heads if not any(key.startswith(head) for key in expected)]
        unexpected = [key for key in unexpected if not key.startswith(tuple(heads))]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
    problems = [f"{kind}: {_listed(entries)}" for kind, entries in kinds if entries]
    if problems:
        options = (
            "" if backbone.stem == "imagenet" and backbone.norm == "batch" else f", {backbone.stem} {backbone.norm}"
        )
        raise UserError(f"weights: {source} does not fit {backbone.name!r}{options}: {'; '.join(problems)}")
    broken = [key for key, value in state.items() if value.is_floating_point() and not value.float().isfinite().all()]
    if broken:
        raise UserError(f"weights: {source} holds values that are not finite in {_listed(broken)}")
    backbone.model.load_state_dict({**expected, **state}, strict=True)


def _strange(value: Tensor | None, expected: Tensor) -> str:
    """Return what keeps an entry from being copied as it is, in a word; "" where nothing does."""
    if value is None:
        return ""
    if value.is_nested or value.is_quantized or value.is_meta:
        return "nested" if value.is_nested else "quantised" if value.is_quantized else "meta"
    if value.layout != torch.strided:
        return str(value.layout).removeprefix("torch.")
    whole = not value.is_floating_point() and expected.is_floating_point()
    return str(value.dtype).removeprefix("torch.") if value.is_complex() or whole else ""


def without_classifier(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the state dict without the entries that timm says are the architecture's classifier."""
    names = _classifier(name)
    return {key: value for key, value in state.items() if key.rpartition(".")[0] not in names}


def _classifier(name: str) -> tuple[str, ...]:
    classifier = pretrained_config(name).classifier
    return (classifier,) if isinstance(classifier, str) else tuple(classifier or ())


def _find(path: Path) -> Path:
    if path.is_dir():
        file = path / WEIGHTS_FILE
        if not file.is_file():
            raise MissingError(
                f"weights: folder {path} holds no {WEIGHTS_FILE}; is it a run folder, and did it finish?"
            )
        return file
    if not path.is_file():
        raise MissingError(f"weights: no such file or run folder: {path}")
    if path.suffix not in (".safetensors", *PICKLED):
        raise UserError(f"weights: {path} ends in {path.suffix!r}; allowed: .safetensors, {', '.join(PICKLED)}")
    return path


def _read(file: Path) -> tuple[Mapping[str, Any], dict[str, str]]:
    """Return content and metadata of a file that may come from strangers: nothing in it can run code (law 7)."""
    if file.suffix == ".safetensors":
        try:
            with safetensors.safe_open(file, framework="pt") as opened:
                return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
        except safetensors.SafetensorError as error:
            raise UserError(f"weights: {file} is not a whole safetensors file: {error}") from error
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)  # what cannot be read is refused
            content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UserError(
            f"weights: {file} is damaged or holds more than tensors, which is not read because it could run code; "
            "save its state_dict alone, best as .safetensors"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"weights: {file} holds no state dict (names to tensors)")
    return content, {}


def _parse(file: Path, metadata: Mapping[str, str]) -> tuple[str, str, str, WeightsInfo]:
    try:
        info = WeightsInfo(
            size=_pixels(metadata["size"]),
            mean=_colour("mean", metadata["mean"]),
            std=_colour("std", metadata["std"]),
            method=metadata["method"],
            version=metadata["scenewise"],
        )
        name, stem, norm = metadata["name"], metadata["stem"], metadata["norm"]
    except KeyError as error:
        raise UserError(f"weights: {file} has damaged metadata: no {error.args[0]}") from error
    except ValueError as error:
        raise UserError(f"weights: {file} has damaged metadata: {error}") from error
    if stem not in STEMS or norm not in NORMS:
        raise UserError(f"weights: {file} has an unknown stem {stem!r} or norm {norm!r}; a later version wrote it?")
    return name, stem, norm, info


def _pixels(text: str) -> int:
    if not re.fullmatch("0*[1-9][0-9]{0,8}", text):
        raise ValueError(f"size {text} is no whole number of pixels, at least 1")
    return int(text)


def _colour(field: str, text: str) -> Colour:
    try:
        red, green, blue = (float(value) for value in json.loads(text))
    except (TypeError, ValueError, OverflowError, RecursionError):
        red = green = blue = math.nan
    if not all(math.isfinite(value) and (value > 0 or field != "std") for value in (red, green, blue)):
        above = " above 0" if field == "std" else ""
        raise ValueError(f"{field} {text} is not three finite numbers{above}, for example [0.5, 0.5, 0.5]")
    return red, green, blue


def _listed(entries: list[str]) -> str:
    more = f" and {len(entries) - LISTED} more" if len(entries) > LISTED else ""
    return ", ".join(entries[:LISTED]) + more
