"""What the user writes to name data: a folder, or `kind:path?option=value&option=value`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from scenewise.errors import UserError, unknown_name

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "folder": "photos in a folder, nested at any depth, no labels (a plain path means this)",
        "voc": "PASCAL VOC: the folder that holds VOCdevkit; ?split= ?year= ?classes=cat,dog",
        "coco": "COCO: the folder that holds train2017, val2017, annotations; ?split= ?year=2014 ?classes=cat,dog",
        "openimages": "Open Images: train, validation, test, the box tables beside them; ?split= ?classes=Cat,Dog",
        "yolo": "labels as YOLO has them: the dataset's YAML file, or its folder; ?split=val ?classes=cat,dog",
        "csv": "a table with the header image,labels (labels split by ;); ?root= ?multi=1",
        "imagefolder": "one folder per class, photos nested at any depth below",
        "cifar10": "CIFAR-10 as binary files, npz parts or pickles; ?split=",
        "cifar100": "CIFAR-100 likewise; ?split= ?labels=coarse (20 classes instead of 100)",
        "stl10": "STL-10 as binary files; ?split=train, test, unlabeled or train+unlabeled",
        "tinyimagenet": "Tiny ImageNet: the folder that holds tiny-imagenet-200; ?split=train, val or test",
        "shards": "what `scenewise pack` has written: a folder, or shards:https://HOST/FOLDER ({} for a file); ?split=",
        "synthetic": "generated scenes of textured objects, labels, boxes and masks: synthetic:2000; ?seed= ?split=",
    }
)

_OPTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "folder": (),
        "voc": ("split", "year", "classes"),
        "coco": ("split", "year", "classes"),
        "openimages": ("split", "classes"),
        "yolo": ("split", "classes"),
        "csv": ("root", "multi"),
        "imagefolder": (),
        "cifar10": ("split",),
        "cifar100": ("split", "labels"),
        "stl10": ("split",),
        "tinyimagenet": ("split",),
        "shards": ("split",),
        "synthetic": ("seed", "split"),
    }
)

_PREFIX = re.compile(r"([A-Za-z][A-Za-z0-9_-]+):(.*)", re.DOTALL)  # two letters or more: C:\ is a drive, not a kind
_TAIL = re.compile(r"(.*)\?([A-Za-z_]+(?:=[^?]*)?)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Spec:
    """Data as the user named it: the kind, the path (or the number of `synthetic:`), the options as written."""

    kind: str
    path: str
    options: Mapping[str, str] = field(default_factory=dict)

    def canonical(self, **resolved: str) -> str:
        """Return the text that names the same data from anywhere, with the options in the order of `resolved`."""
        located = self.kind == "synthetic" or (self.kind == "shards" and is_address(self.path))
        path = self.path if located else os.path.abspath(self.path)  # noqa: PTH100 - lexical
        tail = "&".join(f"{name}={value}" for name, value in resolved.items() if value)
        return f"{self.kind}:{path}?{tail}" if tail else f"{self.kind}:{path}"


def is_address(path: str) -> bool:
    """Tell whether packed shards lie behind an http or https address instead of in a folder."""
    return path.startswith(("http://", "https://"))


def parse_spec(text: str) -> Spec:
    """Split what the user wrote into kind, path and options; nothing on the disk is opened.

    A path that exists as written is a folder, whatever signs are in its name. Raises UserError for an unknown kind, an
    unknown or repeated option, an empty path.
    """
    if not text.strip():
        raise UserError("data: no path given; expected a folder or kind:path, kind one of " + ", ".join(KINDS))
    if _exists(text):
        return Spec("folder", str(Path(text).expanduser()))
    prefix = _PREFIX.fullmatch(text)
    if prefix is None:
        kind, rest = "folder", text
    else:
        kind, rest = prefix[1], prefix[2]
        if kind not in KINDS:
            raise UserError(unknown_name("data", kind, KINDS))
    path, options = _split_options(kind, rest)
    if not path:
        raise UserError(f"data: {text!r} names no path; expected {kind}:PATH")
    if kind == "shards" and "://" in path:
        if not is_address(path):
            raise UserError(f"data: {path!r} is no address of shards; expected http://, https:// or a folder")
        if not re.match(r"https?://[^/?#\s]+(?![^?]*\s)", path):
            raise UserError(f"data: {path!r} is no address: it names no host, or holds spaces (write them as %20)")
    elif kind != "synthetic":
        path = str(Path(path).expanduser())
    return Spec(kind, path, options)


def _split_options(kind: str, rest: str) -> tuple[str, dict[str, str]]:
    tail = _TAIL.fullmatch(rest)
    if tail is None or _exists(rest):
        return rest, {}
    path, options, parts = tail[1], dict[str, str](), list(filter(None, tail[2].split("&")))
    if kind == "shards" and is_address(path):  # an address may have a query of its own in front of our options
        query = [part for part in parts if part.partition("=")[0] not in _OPTIONS[kind]]
        path, parts = "?".join([path, "&".join(query)] if query else [path]), [p for p in parts if p not in query]
    for part in parts:
        name, equals, value = part.partition("=")
        if name not in _OPTIONS[kind]:
            raise UserError(_unknown_option(kind, name))
        if not equals or not value:
            raise UserError(f"data: option {name!r} of {kind}: has no value; write ?{name}=VALUE")
        if name in options:
            raise UserError(f"data: option {name!r} is given twice in {kind}:{rest}")
        options[name] = value
    return path, options


def _exists(text: str) -> bool:
    return os.path.exists(Path(text).expanduser())  # noqa: PTH110 - Path.exists raises for names that are too long


def _unknown_option(kind: str, name: str) -> str:
    if name == "split":
        return f"data: {kind}: has no splits, so ?split= means nothing; name the other data with --test-data"
    if not _OPTIONS[kind]:
        return f"data: {kind}: takes no options, but {name!r} is given"
    return unknown_name(f"data: option of {kind}:", name, _OPTIONS[kind])
