"""What a folder of packed images holds: tar shards, and beside them the files that say what is in them.

NAME-00000.tar ...      webdataset's layout: NUMBER.jpg with NUMBER.json beside it, in the order of the images
NAME-00000.tar.sha256   sha256sum's format
index.arrow             one row an image: where its bytes are, how many, their checksum; key, size, label
objects.arrow           labelled boxes, where the data had some (`sources.objects`)
proposals-NAME.arrow    object proposals of a split, where some were packed (`proposals.store`)
skipped.csv             the images that were left out, with the reason
shards.json             the manifest: written last, so a folder without it is not finished
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from scenewise.errors import UserError

FORMAT = 1  # raise when packed folders of before cannot be read any more
MANIFEST = "shards.json"
JOURNAL = "packing.jsonl"  # what is there until the manifest is
INDEX = "index.arrow"
OBJECTS = "objects.arrow"
UNNAMED = "images"  # begins the names of the files of data without splits
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PLAIN = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_+.-]*")  # a file's name that leads to no other folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """Length in bytes and SHA-256 (hex) of a file."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """A tar file of consecutive images of one split."""

    name: str
    images: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Unpacked:
    """A split as it was before: its name ("" without splits), spec, fingerprint, and number of images."""

    name: str
    data: str
    fingerprint: str
    images: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """All that the bytes of a packed folder depend on: two folders of the same origin are the same.

    data: as it was named. proposals: the header of the file of object proposals that was packed, or None.
    """

    data: str
    splits: tuple[Unpacked, ...]
    settings: Mapping[str, int]
    versions: Mapping[str, str]
    proposals: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Consecutive images: of the split `name`, or of data without splits (`name` is "").

    left_out: images that could not be read when they were packed. notes: what the unpacked data said of themselves.
    proposals: the file of their object proposals, or None.
    """

    name: str
    images: int
    left_out: int
    notes: tuple[str, ...]
    proposals: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What the shards of a folder hold.

    labelled: whether every image has a label (a class, or with `multi_label` some).
    evaluation: the names of the (train, test) splits, where both are here. files: every file but the shards.
    fingerprint: hex digest of images, labels and boxes.
    """

    format: int
    origin: Origin
    classes: tuple[str, ...]
    labelled: bool
    multi_label: bool
    evaluation: tuple[str, str] | None
    splits: tuple[Split, ...]
    shards: tuple[Shard, ...]
    files: Mapping[str, Contents]
    fingerprint: str

    @property
    def images(self) -> int:
        """Images of all splits."""
        return sum(split.images for split in self.splits)

    def to_text(self) -> str:
        """Return the manifest as the file holds it."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"


def split_fingerprint(manifest_fingerprint: str, split: str) -> str:
    """Return the hex digest of what a split of packed images holds."""
    return hashlib.blake2b(f"{manifest_fingerprint} {split}".encode(), digest_size=16).hexdigest()


def plain_name(text: str) -> str:
    """Return a name for files that is made of letters, digits and `_+-.` only: other signs become `_`."""
    return re.sub(r"[^A-Za-z0-9_+.-]|^\.", "_", text) or UNNAMED


def parse_manifest(text: str, where: str) -> Manifest:
    """Return the manifest of a folder or address; UserError where it is damaged, or of another version."""
    damaged = UserError(f"data: {where} is damaged, or not what `scenewise pack` writes; pack anew with --overwrite")
    try:
        content: Any = json.loads(text)
        version = content["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise damaged from None
    if type(version) is not int or version != FORMAT:
        raise UserError(f"data: {where} is of format {version!r}, this version reads {FORMAT}; pack anew")
    try:
        found: Manifest = TypeAdapter(Manifest).validate_python(content)
    except ValidationError:
        raise damaged from None
    names = [*(shard.name for shard in found.shards), *found.files]
    packed = [split.proposals for split in found.splits if split.proposals is not None]
    counted = sum(shard.images for shard in found.shards) == found.images > 0
    if not counted or INDEX not in found.files or not {*packed} <= found.files.keys():
        raise damaged
    if not all(_PLAIN.fullmatch(name) for name in names):  # a stranger's folder names no file outside of it
        raise damaged
    if not _consistent(found):
        raise damaged
    return found


def _consistent(manifest: Manifest) -> bool:
    """Return whether what a manifest says can be: a stranger may have written it."""
    files, shards = manifest.files.values(), manifest.shards
    counts = [*(file.bytes for file in files), *(shard.bytes for shard in shards), *(each.images for each in shards)]
    digests = [*(file.sha256 for file in files), *(shard.sha256 for shard in shards)]
    splits = [split.name for split in manifest.splits]
    return (
        min(counts) >= 1
        and min(split.images for split in manifest.splits) >= 0
        and all(map(_DIGEST.fullmatch, digests))  # names the copy in the cache folder
        and len(set(splits)) == len(splits)
        and (manifest.evaluation is None or {*manifest.evaluation} <= {*splits})
        and (bool(manifest.classes) or not manifest.labelled)
    )


def index_schema(*, labelled: bool, multi_label: bool, classes: int) -> pa.Schema:
    """Return the columns of the index.

    `shard` counts the manifest's shards, `offset` and `length` are bytes of the shard, `checksum` is their CRC-32.
    `label`: a class number, or with `multi_label` a value for each class (1 present, 0 absent, -1 not judged).
    """
    columns = [
        ("key", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("checksum", pa.uint32()),
    ]
    if labelled:
        columns.append(("label", pa.list_(pa.int8(), classes) if multi_label else pa.int64()))
    return pa.schema(columns)
