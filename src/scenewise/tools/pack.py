"""A data set packed for training: smaller images in few large files, with all that is known of them."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL

from scenewise.engine.display import Display, Quiet
from scenewise.engine.folder import writing
from scenewise.engine.logs import SKIPPED
from scenewise.engine.proposed import StoredProposals, open_proposals
from scenewise.engine.run import open_with_display
from scenewise.errors import UserError
from scenewise.hardware import cores
from scenewise.proposals.store import Store, read_header
from scenewise.sources import Source, parse_spec
from scenewise.sources.shards_format import OBJECTS, Manifest, Origin, Unpacked, plain_name
from scenewise.tools.pack_finish import finish
from scenewise.tools.pack_folder import begin, check_out, read_manifest
from scenewise.tools.pack_images import Images
from scenewise.tools.pack_journal import Journal
from scenewise.tools.pack_writing import write_shards
from scenewise.views.opencv import check_opencv
from scenewise.wording import counted

# Ours: pixels; a random crop of a fifth of a 4:3 photo (MoCo v2's smallest) still has 165 x 165 of them.
SHORT_SIDE = 320
# Of JPEG, ours: 78 photos of VOC, resized to 160 px, came back at 37.7 dB by 90, 40.9 by 95, 44.2 by 98, in 12.8, 17.7
# and 24.1 kB.
QUALITY = 95
SHARD_IMAGES = 10_000  # images of a tar file, ours: some 500 MB, few files for a million images
PROPOSALS = "--proposals"  # what names the file, in errors
LEAST_SIDE = 32  # pixels: what is smaller is "tiny" for an audit


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """A packed folder: what it holds, and what its making was like.

    unreadable: images that were left out, by the index or because they could not be decoded. made: images that this
    call worked on (the others were there already), in `seconds`.
    """

    folder: Path
    manifest: Manifest
    unreadable: int
    made: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the figures under stable names; `seconds_per_image` is of this call, None where it made nothing."""
        size = sum(shard.bytes for shard in self.manifest.shards)
        return {
            "folder": str(self.folder),
            "data": self.manifest.origin.data,
            "images": self.manifest.images,
            "unreadable": self.unreadable,
            "splits": {split.name: split.images for split in self.manifest.splits if split.name},
            "shards": len(self.manifest.shards),
            "bytes": size,
            "bytes_per_image": size / self.manifest.images,
            "proposals": any(split.proposals is not None for split in self.manifest.splits),
            "boxes": OBJECTS in self.manifest.files,
            "seconds_per_image": self.seconds / self.made if self.made else None,
        }


def pack(
    data: str,
    *,
    out: str | Path,
    short_side: int = SHORT_SIDE,
    quality: int = QUALITY,
    shard_images: int = SHARD_IMAGES,
    proposals: str | Path | None = None,
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    reindex: bool = False,
    display: Display | None = None,
) -> Packed:
    """Put the images of a data set into tar shards for `shards:OUT` (`scenewise pack`); `.to_json()` gives its JSON.

    Of data with a training and a test split both are packed, unless `?split=` names one. The bytes depend on the
    images and the settings alone: not on the number of workers, nor on interruptions. An image that cannot be read is
    left out and named in skipped.csv.

    short_side: pixels that the short side has at most, 32 or more. quality: of JPEG, 1..100. shard_images: of a tar
    file. proposals: a file of `scenewise propose` for these data, carried along. workers: one a core by default. The
    defaults' origins stand beside them. Raises UserError for wrong input, before any work, and Interrupted once all
    that is done is kept, for `resume`.
    """
    display, out = display or Quiet(), Path(out)
    proposals = None if proposals is None else Path(proposals)
    check_opencv()
    _check_numbers(short_side=short_side, quality=quality, shard_images=shard_images, workers=workers)
    if parse_spec(data).kind == "shards":
        raise UserError(f"data: {data!r} is packed already; name the data it was packed from")
    check_out(out, resume=resume, overwrite=overwrite)
    if proposals is not None:
        read_header(proposals, field=PROPOSALS)
    sources, evaluation = open_all_splits(data, display, reindex=reindex)
    proposed, notes = _open_proposals(proposals, sources)
    for note in [*(note for source in sources.values() for note in source.notes), *notes]:
        display.say(f"note: {note}")
    settings = {"short_side": short_side, "quality": quality, "shard_images": shard_images}
    origin = make_origin(sources, proposed, settings=settings)
    names = [plain_name(name) for name in sources]
    with writing(out):
        journal = begin(out, origin, resume=resume, overwrite=overwrite, display=display)
        if journal is None:
            return _made(out, read_manifest(out), sources, made=0, seconds=0.0, display=display)
        with closing(journal):
            began, before = time.perf_counter(), journal.images
            images = Images(list(sources.values()), short_side=short_side, quality=quality)
            processes = cores() if workers is None else workers
            write_shards(
                out, journal, images, names=names, shard_images=shard_images, workers=processes, display=display
            )
            seconds = time.perf_counter() - began
            _check_some(journal, sources)
            manifest = finish(out, journal, list(sources.values()), proposed, names=names, evaluation=evaluation)
            journal.path.unlink()
    return _made(out, manifest, sources, made=len(images) - before, seconds=seconds, display=display)


def _check_numbers(*, short_side: int, quality: int, shard_images: int, workers: int | None) -> None:
    problems = []
    if short_side < LEAST_SIDE:
        problems.append(f"--short-side: {short_side} must be at least {LEAST_SIDE} pixels")
    if not 1 <= quality <= 100:
        problems.append(f"--quality: {quality} is no quality of JPEG; allowed are 1 to 100")
    if shard_images < 1:
        problems.append(f"--shard-images: {shard_images} must be at least 1 image a shard")
    if workers is not None and workers < 0:
        problems.append(f"--workers: {workers} must be at least 0")
    if problems:
        raise UserError(*problems)


def open_all_splits(data: str, display: Display, *, reindex: bool) -> tuple[dict[str, Source], tuple[str, str] | None]:
    """Return the sources to be packed, by split ("" without), and the (train, test) splits where both are there."""
    whole = open_with_display(data, display, reindex=reindex)
    named = parse_spec(data).options.get("split")
    if named is not None or whole.splits is None:
        return {named or "": whole}, None
    sources = {}
    for split in whole.splits:
        try:
            sources[split] = open_with_display(data, display, split=split)
        except UserError as error:
            mark = "&" if parse_spec(data).options else "?"
            raise UserError(
                *error.problems, f"data: to pack the other split alone, write {data}{mark}split={whole.splits[0]}"
            ) from None
    first, second = sources.values()
    if (first.classes, first.labels() is None) != (second.classes, second.labels() is None):
        raise UserError(f"data: the splits of {data} have other labels each; pack one at a time, with ?split=")
    return sources, whole.splits


def _open_proposals(file: Path | None, sources: dict[str, Source]) -> tuple[list[StoredProposals | None], list[str]]:
    """Return the proposals of each split, None for a test split whose images the file does not know, and a note."""
    if file is None:
        return [None] * len(sources), []
    found: list[StoredProposals | None] = []
    notes = []
    for number, (name, source) in enumerate(sources.items()):
        keys = [source[index].key for index in range(len(source))]
        if number and not (Store(file, field=PROPOSALS).find(keys) >= 0).any():
            notes.append(f"{file} has no proposals for the images of split {name!r}: they are packed without")
            found.append(None)
        else:
            found.append(open_proposals(file, source, field=PROPOSALS))
    return found, notes


def make_origin(
    sources: dict[str, Source], proposed: Sequence[StoredProposals | None], *, settings: dict[str, int]
) -> Origin:
    """Return what the packed bytes depend on."""
    header = next((each.header for each in proposed if each is not None), None)
    splits = tuple(
        Unpacked(name=name, data=source.spec, fingerprint=source.fingerprint, images=len(source))
        for name, source in sources.items()
    )
    return Origin(
        data=splits[0].data,
        splits=splits,
        settings=settings,
        versions={
            "scenewise": version("scenewise"),
            "numpy": np.__version__,
            "opencv": cv2.__version__,
            "pillow": PIL.__version__,
        },
        proposals=None if header is None else json.loads(json.dumps(dataclasses.asdict(header))),  # as it is read again
    )


def _check_some(journal: Journal, sources: dict[str, Source]) -> None:
    """Raise UserError for a split of which no image could be packed."""
    packed = {line.split for line in journal if not line.reason}
    for number, source in enumerate(sources.values()):
        if number not in packed:
            first = next(line for line in journal if line.split == number)
            raise UserError(
                f"data: none of the {len(source)} images of {source.spec} can be read, e.g. {first.key}: {first.reason}"
            )


def _made(
    out: Path, manifest: Manifest, sources: dict[str, Source], *, made: int, seconds: float, display: Display
) -> Packed:
    unreadable = sum(split.left_out for split in manifest.splits)
    unreadable += sum(len(source.unreadable) for source in sources.values())
    packed = Packed(folder=out, manifest=manifest, unreadable=unreadable, made=made, seconds=seconds)
    figures = packed.to_json()
    pace = f", {1000 * seconds / made:.3g} ms an image" if made else ""
    display.say(
        f"{counted(manifest.images, 'image')} in {counted(len(manifest.shards), 'shard')}, "
        f"{figures['bytes'] / 1e6:,.1f} MB, "
        f"{figures['bytes_per_image'] / 1e3:.1f} kB an image{pace}"
    )
    if unreadable:
        display.warn(f"{counted(unreadable, 'image')} cannot be read; named in {out / SKIPPED}")
    return packed
