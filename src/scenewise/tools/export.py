"""Export: a backbone as a plain file that timm or torchvision loads, with the lines of Python that load it."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from scenewise.backbones import Backbone, Subject, load_subject, save_backbone
from scenewise.backbones.create import GROUPS, pretrained_config
from scenewise.backbones.subjects import SHARED_WITH_TORCHVISION
from scenewise.backbones.weights import plain_state, write_atomically
from scenewise.errors import UserError, unknown_name

# The endings each format may have, the usual one first.
ENDINGS = {
    "safetensors": (".safetensors",),
    "timm": (".safetensors", ".pth"),
    "torchvision": (".pth", ".safetensors"),
}


def export(subject: str | Path, *, format: str, out: str | Path, overwrite: bool = False) -> str:  # noqa: A002
    """Write a subject's weights for other tools and return the lines of Python that load them (`scenewise export`).

    format: "safetensors" (timm's key names, and what the weights expect in the metadata), "timm" (a checkpoint for
    `timm.create_model`), "torchvision" (a state dict of torchvision's ResNets). The loaded `model` gives the features
    that Scenewise gives, to 1e-5. Raises UserError for an unknown format or ending, an `out` that exists (without
    `overwrite`) or cannot be written, an architecture that the format does not have, or a wrong subject.
    """
    out = Path(out)
    _check(format, out, overwrite=overwrite)
    loaded = load_subject(str(subject))
    if format == "torchvision":
        _check_torchvision(loaded.backbone)
    snippet = "\n".join([*_loading(loaded.backbone, format=format, out=out), *_use(loaded)])
    try:
        _write(loaded, out)
    except OSError as error:
        raise UserError(f"out: {out} cannot be written: {error.strerror}") from error
    return snippet


def _check(format: str, out: Path, *, overwrite: bool) -> None:  # noqa: A002
    if format not in ENDINGS:
        raise UserError(unknown_name("format", format, ENDINGS))
    problems = []
    if out.suffix not in ENDINGS[format]:
        problems.append(f"out: {out} must end in {' or '.join(ENDINGS[format])} for format {format!r}")
    if out.is_dir():
        problems.append(f"out: {out} is a folder; name a file in it")
    elif out.exists() and not overwrite:
        problems.append(f"out: {out} exists; name another file or allow to overwrite it (--overwrite)")
    if problems:
        raise UserError(*problems)


def _check_torchvision(backbone: Backbone) -> None:
    architecture = _architecture(backbone)
    if architecture not in SHARED_WITH_TORCHVISION:
        raise UserError(
            f"format: torchvision has no {backbone.name!r} with these key names; allowed: "
            f"{', '.join(SHARED_WITH_TORCHVISION)}. Use --format timm"
        )


def _architecture(backbone: Backbone) -> str:
    return backbone.name.partition(".")[0]


def _write(subject: Subject, out: Path) -> None:
    backbone = subject.backbone
    if out.suffix == ".safetensors":
        method = backbone.weights.method
        save_backbone(out, backbone, size=subject.size, mean=subject.mean, std=subject.std, method=method)
        return
    buffer = io.BytesIO()
    torch.save(plain_state(backbone), buffer)
    write_atomically(out, buffer.getvalue())


def _loading(backbone: Backbone, *, format: str, out: Path) -> list[str]:  # noqa: A002
    """Return the lines that build `model` and fill it, strictly."""
    path = str(out)
    edits = [
        "model.conv1 = torch.nn.Conv2d(3, model.conv1.out_channels, 3, padding=1, bias=False)  # made for small images",
        "model.maxpool = torch.nn.Identity()",
    ]
    edits = {"imagenet": [], "cifar-pool": edits[:1], "cifar": edits}[backbone.stem]
    if format == "torchvision":
        norm = f"norm_layer=lambda width: torch.nn.GroupNorm({GROUPS}, width)" if backbone.norm == "group" else ""
        lines = [f"model = torchvision.models.{_architecture(backbone)}({norm})", "model.fc = torch.nn.Identity()"]
        return [*_imports(path, "torchvision"), *lines, *edits, f"model.load_state_dict({_reading(path)})"]
    options = [repr(backbone.name), "num_classes=0"]
    if pretrained_config(backbone.name).fixed_input_size:
        options.append(f"img_size={backbone.weights.size}")
    if backbone.norm == "group":
        options.append("norm_layer='groupnorm'")
    if format == "timm" and not edits:
        return ["import timm", "", f"model = timm.create_model({', '.join(options)}, checkpoint_path={path!r})"]
    create = f"model = timm.create_model({', '.join(options)})"
    if format == "timm":
        load = f"timm.models.load_checkpoint(model, {path!r})"
        return ["import timm", "import torch", "", create, *edits, load]
    return [*_imports(path, "timm"), create, *edits, f"model.load_state_dict({_reading(path)})"]


def _imports(path: str, library: str) -> list[str]:
    reader = ["import safetensors.torch"] if path.endswith(".safetensors") else []
    return [*reader, "import torch", f"import {library}", ""]


def _reading(path: str) -> str:
    if path.endswith(".safetensors"):
        return f"safetensors.torch.load_file({path!r})"
    return f"torch.load({path!r}, weights_only=True)"


def _use(subject: Subject) -> list[str]:
    return [
        "model.eval()",
        f"# RGB images of {subject.size} x {subject.size} px, values 0..1, minus mean, divided by std:",
        f"mean, std = {subject.mean}, {subject.std}",
        f"# model(images) -> (images, {subject.backbone.width}) features",
    ]
