"""Object proposals of every image of a source, made once and kept in a file: in parallel, and fit to be interrupted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import PIL
from torch.utils.data import Dataset

from scenewise import keys
from scenewise.engine.display import Display
from scenewise.engine.folder import writing
from scenewise.engine.in_order import in_order
from scenewise.engine.logs import write_skipped
from scenewise.engine.processes import started_world
from scenewise.engine.proposed import LABELLED
from scenewise.engine.proposing_files import begin, check_out, skipped_file
from scenewise.engine.signals import Signals
from scenewise.errors import ImageError, Interrupted, UserError
from scenewise.proposals.base import Generator
from scenewise.proposals.kept import LIMIT, MAX_IOU, keep
from scenewise.proposals.partial import Partial
from scenewise.proposals.rows import Row
from scenewise.proposals.store import Header, Origin, read_header, write_store
from scenewise.proposals.table import Table
from scenewise.sources import Source
from scenewise.sources.base import HasBoxes
from scenewise.types import Skip
from scenewise.views.decode import decode
from scenewise.views.opencv import use_one_thread
from scenewise.wording import counted

BLOCK = 32  # images between two writes to the disk: what a kill costs at most


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A proposal file: what it holds, and what its making was like.

    left_out: images of the data that have no row in the file, as the index could not read them. made: images that this
    call worked on (the others were there already), in `seconds`.
    """

    file: Path
    header: Header
    left_out: int
    made: int
    seconds: float

    @property
    def images(self) -> int:
        """Images that the data have: the other counts are among these."""
        return self.header.origin.images + self.left_out

    @property
    def unreadable(self) -> int:
        """Images that cannot be read."""
        return self.header.unreadable + self.left_out

    @property
    def boxes_per_image(self) -> float:
        """Boxes of an image that can be read."""
        return self.header.boxes / max(1, self.images - self.unreadable)

    def to_json(self) -> dict[str, Any]:
        """Return the figures under stable names; all counts are of the images that the data have.

        `images_without_boxes` holds the unreadable ones, `boxes_per_image` is a mean over the others.
        `seconds_per_image` is of this call, None where it made nothing.
        """
        origin = self.header.origin
        return {
            "file": str(self.file),
            "data": origin.source,
            "generator": origin.generator,
            "images": self.images,
            "images_without_boxes": self.header.images_without_boxes + self.left_out,
            "unreadable": self.unreadable,
            "boxes": self.header.boxes,
            "boxes_per_image": self.boxes_per_image,
            "mean_area": self.header.mean_area,
            "seconds_per_image": self.seconds / self.made if self.made else None,
        }


def propose(
    source: Source,
    out: Path,
    generator: Generator | Table | None,
    *,
    limit: int = LIMIT,
    seed: int = 0,
    workers: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    display: Display,
    alive: Callable[[], None] = lambda: None,
) -> Made:
    """Write the proposals of every image of a source to `out` and return what was made.

    generator: None takes the labelled boxes of the source, a table those that it has for the source's images. Others
    are made on the upright photo at full size. All pass `keep`, `limit` of them at most. The bytes of the file depend
    on nothing else: not on the number of workers, nor on interruptions. An image that cannot be read has no boxes and
    is named beside the file. With `resume` what is there is gone on with, where it is of the same origin; `overwrite`
    replaces what is not, and says so. `alive` is called after each image. Raises UserError for what cannot work,
    Interrupted once all that is done is kept.
    """
    check_out(out, resume=resume, overwrite=overwrite)
    if generator is None and not isinstance(source, HasBoxes):
        raise UserError(f"--generator: {source.spec} has no labelled boxes; use another generator than 'labels'")
    origin = make_origin(source, generator, limit=limit, seed=seed)
    with writing(out):
        partial = begin(out, origin, resume=resume, overwrite=overwrite, display=display)
        if partial is None:
            header, before, seconds = read_header(out), len(source), 0.0
        else:
            with closing(partial):
                began, before = time.perf_counter(), len(partial)
                images = _Images(source, generator, limit=limit, seed=seed)
                _make(partial, images, workers=workers, display=display, alive=alive)
                seconds = time.perf_counter() - began
                header = _finish(partial, source, out)
    made = Made(file=out, header=header, left_out=len(source.unreadable), made=len(source) - before, seconds=seconds)
    _tell(made, display)
    return made


def make_origin(source: Source, generator: Generator | Table | None, *, limit: int, seed: int) -> Origin:
    """Return what the proposals depend on."""
    settings = {} if generator is None else dict(generator.settings)
    return Origin(
        generator=LABELLED if generator is None else generator.name,
        settings=json.loads(json.dumps(settings)),  # as they are read again
        keep=limit,
        max_iou=MAX_IOU,
        seed=seed,
        versions={
            "scenewise": version("scenewise"),
            "numpy": np.__version__,
            "opencv": cv2.__version__,
            "pillow": PIL.__version__,
        },
        source=source.spec,
        fingerprint=source.fingerprint,
        images=len(source),
    )


class _Images(Dataset[Row | UserError]):
    """The proposals of each image, by its number; in whichever process that is."""

    def __init__(self, source: Source, generator: Generator | Table | None, *, limit: int, seed: int) -> None:
        self.source, self.generator, self.limit, self.seed = source, generator, limit, seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Row | UserError:
        """Return a row. A UserError is returned: raised in a worker it would arrive with a traceback inside."""
        try:
            return self._row(index)
        except UserError as error:
            return error

    def _row(self, index: int) -> Row:
        use_one_thread()
        record = self.source[index]
        try:
            if self.generator is None:
                boxes, scores = cast("HasBoxes", self.source).boxes(index)[0], None
            elif isinstance(self.generator, Table):
                boxes, scores = self.generator.of(index)
            else:
                pixels = decode(record.read(), record.size, record.orientation).pixels
                boxes, scores = self.generator(pixels, keys.generator(self.seed, "proposals", index))
        except ImageError as error:
            return Row(record.key, record.size, np.empty((0, 4), np.int32), None, reason=str(error))
        boxes, scores = keep(boxes, scores, record.size, limit=self.limit, max_iou=MAX_IOU)
        return Row(record.key, record.size, boxes, scores)


def _make(partial: Partial, images: _Images, *, workers: int, display: Display, alive: Callable[[], None]) -> None:
    """Add the rows that are missing. What is done is kept whatever happens."""
    pending: list[Row] = []
    with Signals(patient=started_world() > 1) as signals, display.bar("proposing", len(images)) as bar:
        try:
            for row in in_order(images, start=len(partial), workers=workers):
                pending.append(row)
                if len(pending) == BLOCK:
                    partial.append(pending)
                    pending = []
                done = len(partial) + len(pending)
                bar.update(done)
                alive()
                if signals.received:
                    break
        finally:
            partial.append(pending)
    if signals.received:
        raise Interrupted(signals.received)


def _finish(partial: Partial, source: Source, out: Path) -> Header:
    """Write the file and who was left out; the rows that it is made of go last."""
    skipped = [Skip(number, row.key, row.reason) for number, row in enumerate(partial) if row.reason]
    skipped = [*source.unreadable, *skipped]
    if skipped:
        write_skipped(out.absolute().parent, skipped, name=skipped_file(out).name)
    else:
        skipped_file(out).unlink(missing_ok=True)
    header = write_store(out, partial.origin, partial)
    partial.path.unlink()
    return header


def _tell(made: Made, display: Display) -> None:
    header, images = made.header, made.images
    pace = f", {made.seconds / made.made:.3g} s an image" if made.made else ""
    read = f", {images - made.unreadable} of them read, {made.boxes_per_image:.1f} boxes an image read"
    without = f", {made.boxes_per_image:.1f} boxes an image"
    display.say(
        f"{counted(images, 'image')}{read if made.unreadable else without}; one of the first ten covers "
        f"{100 * header.mean_area:.1f} % of its image on average{pace}"
    )
    empty = header.images_without_boxes - header.unreadable
    if empty:
        display.say(f"note: nothing was found in {empty} of {images} images")
    if made.unreadable:
        display.warn(f"{made.unreadable} of {images} images cannot be read; named in {skipped_file(made.file)}")
