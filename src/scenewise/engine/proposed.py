"""Which object proposals a run cuts its views by: a file's, or the labelled boxes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

from scenewise.engine.folder import PROPOSALS
from scenewise.errors import UserError
from scenewise.proposals.kept import keep
from scenewise.proposals.rows import Row
from scenewise.proposals.store import FIELD, Header, Store, check_row, mean_share, read_header
from scenewise.sources import Source
from scenewise.sources.base import HasBoxes, HasProposals
from scenewise.views.policies import policy_name
from scenewise.views.regions import RegionPolicy

AUTO, LABELS = "auto", "labels"
LABELLED = "labels (labelled boxes: for ablations only)"  # what a file made of labels says of itself
PACKED = "packed shards"  # the source that a file names which was packed with its images: their folder may move
SAMPLE = 2000  # images whose labelled boxes are measured


@runtime_checkable
class Proposed(Protocol):
    """The proposals of a source's images. Pickles small."""

    @property
    def mean_area(self) -> float:
        """Mean share of its image that a box covers."""
        ...

    def __call__(self, index: int) -> np.ndarray | None:
        """Return the (N, 4) boxes `x1, y1, x2, y2` of an image in pixels, best first; None where there are none."""
        ...


class LabelledBoxes:
    """The labelled boxes of a source in the place of proposals: what a perfect proposer would find (ablations only)."""

    def __init__(self, source: Source) -> None:
        self._source = cast("HasBoxes", source)
        sampled = range(0, len(source), max(1, len(source) // SAMPLE))
        sizes = {index: source[index].size for index in sampled}
        # as a file of labelled boxes would hold them
        kept = {index: keep(self._source.boxes(index)[0], None, size)[0] for index, size in sizes.items()}
        shares = [mean_share(boxes, sizes[index]) for index, boxes in kept.items() if len(boxes)]
        self.mean_area = float(np.mean(shares)) if shares else 1.0

    def __call__(self, index: int) -> np.ndarray | None:
        """Return the (n, 4) labelled boxes of an image; None where it has none."""
        boxes = self._source.boxes(index)[0]
        return boxes if len(boxes) else None


class StoredProposals:
    """The proposals of a source's images out of a file; every look-up makes sure that they are those of the image.

    rows: the row of each image in the file, (images,) int64; None where row and image have the same number. Pickles
    as the file's path, the source and `rows`.
    """

    def __init__(self, store: Store, source: Source, rows: np.ndarray | None) -> None:
        self._store, self._source, self._rows = store, source, rows

    @property
    def matched(self) -> bool:
        """Whether images were found by key and size: the data have another name, or another content, than they had."""
        return self._rows is not None

    @property
    def header(self) -> Header:
        """What the file says of itself."""
        return self._store.header

    @property
    def mean_area(self) -> float:
        """Mean share of its image that one of an image's first ten boxes covers."""
        return self.header.mean_area

    def __call__(self, index: int) -> np.ndarray | None:
        """Return the (N, 4) float32 boxes of an image, best first; None where it has none."""
        boxes = self.row(index).boxes
        return boxes.astype(np.float32) if len(boxes) else None

    def scores(self, index: int) -> np.ndarray | None:
        """Return the (N,) float32 scores of an image's boxes; None where its generator gives none."""
        return self.row(index).scores

    def row(self, index: int) -> Row:
        """Return what the file has of an image; UserError where it is of another image than the source's."""
        row = self._store[index if self._rows is None else int(self._rows[index])]
        record = self._source[index]
        if row.key != record.key:
            raise UserError(f"{self._store.field}: {self._store.file} has {row.key} where {record.key} is expected")
        if row.size != record.size:
            raise UserError(_replaced(self._store, self._source, 1, row, record.size))
        problem = check_row(row)
        if problem is not None:
            raise UserError(
                f"{self._store.field}: {self._store.file}: {problem}; make it anew with `scenewise propose`"
            )
        return row


def open_proposals(file: Path, source: Source, *, field: str = FIELD) -> StoredProposals:
    """Return the proposals of a file for the images of a source.

    The file may hold more images than the source, as that of trainval holds those of train. field: what named the file,
    for errors. Raises UserError where it is damaged, lacks images of the source, or was made for images of other sizes.
    """
    store = Store(file, field=field)
    store.check()
    origin = store.header.origin
    same = (origin.fingerprint, origin.images) == (source.fingerprint, len(source))
    if same and origin.source in (source.spec, PACKED):
        return StoredProposals(store, source, None)
    keys, sizes = [], np.empty((len(source), 2), np.int32)
    for index in range(len(source)):
        record = source[index]
        keys.append(record.key)
        sizes[index] = record.size
    rows = store.find(keys)
    missing = np.flatnonzero(rows < 0)
    if len(missing):
        raise UserError(
            f"{field}: {file} has none for {len(missing)} of {len(source)} images, the first "
            f"{keys[missing[0]]!r}; it was made for {origin.images} images of {origin.source}.\n"
            f"Make them for this data: `scenewise propose {shlex.quote(source.spec)} --out FILE`"
        )
    others = np.flatnonzero((store.sizes()[rows] != sizes).any(axis=1))
    if len(others):
        first = int(others[0])
        raise UserError(_replaced(store, source, len(others), store[int(rows[first])], source[first].size))
    return StoredProposals(store, source, rows)


def _replaced(store: Store, source: Source, count: int, row: Row, size: tuple[int, int]) -> str:
    data, file = shlex.quote(source.spec), shlex.quote(str(store.file))
    return (
        f"{store.field}: {count} {'image has' if count == 1 else 'images have'} another size than in {store.file}: "
        f"{row.key} has {size[1]} x {size[0]} pixels, proposals for {row.size[1]} x {row.size[0]}; replaced since?\n"
        f"Make them anew: `scenewise propose {data} --out {file} --overwrite`"
    )


def open_proposed(
    asked: str | None, source: Source, *, folder: Path | None, field: str = FIELD
) -> tuple[Proposed | None, list[str]]:
    """Return the proposals that were asked for, as `data.proposals` names them, for this source, and what to say.

    folder: the run's, where `auto` keeps its file; None: there is no run, nor `auto`. field: what named them, for
    errors. Raises UserError where they do not fit the images.
    """
    if asked is None:
        return None, []
    if asked == LABELS:
        if not isinstance(source, HasBoxes):
            auto = "" if folder is None else f", or {AUTO}"
            raise UserError(f"{field}: {source.spec} has no labelled boxes; name a file of `scenewise propose`{auto}")
        said = "crops are cut by the LABELLED boxes (--proposals labels): an ablation, not unlabelled pre-training"
        return LabelledBoxes(source), [said]
    if asked == AUTO and folder is None:
        raise UserError(f"{field}: {AUTO!r} makes them in a run's folder, and there is none; name a file")
    file = Path(asked) if asked != AUTO or folder is None else folder / PROPOSALS
    proposed = open_proposals(file, source, field=field)
    notes = _notes(file, proposed.header)
    if proposed.matched:
        notes.append(
            f"the data are not as {file} was made for them: its boxes are taken by name and size of each image, whose "
            "content may have changed"
        )
    return proposed, notes


def open_offered(
    asked: str | None, source: Source, *, folder: Path | None, field: str = FIELD
) -> tuple[Proposed | None, list[str]]:
    """Return the proposals as `open_proposed` does or, where none were named, those that came with the images."""
    packed = source.packed_proposals() if asked is None and isinstance(source, HasProposals) else None
    proposed, notes = open_proposed(asked if packed is None else str(packed), source, folder=folder, field=field)
    if packed is not None:
        notes.insert(0, "crops are cut by the proposals that were packed with the images, as no others were named")
    return proposed, notes


def _notes(file: Path, header: Header) -> list[str]:
    origin = header.origin
    notes = [
        f"proposals of {file}: {origin.generator}, {header.boxes / max(1, origin.images):.0f} boxes an image; "
        f"the first ten cover {100 * header.mean_area:.0f} % of the image each"
    ]
    if header.images_without_boxes:
        notes.append(f"{header.images_without_boxes} of the {origin.images} images of {file} have no proposals")
    if origin.generator == LABELLED:
        notes.append(f"the boxes of {file} are LABELLED ones: an ablation, not unlabelled pre-training")
    return notes


def choose_crops(crops: Any, asked: str | None, source: Source, *, folder: Path | None) -> tuple[Any, Any, list[str]]:
    """Return the region policy with every value decided, the proposals it cuts by, and what to say of both."""
    opened = open_offered if crops.needs_proposals else open_proposed
    proposed, notes = opened(asked, source, folder=folder)
    if proposed is None and crops.needs_proposals:
        raise _no_proposals(crops, source.spec, auto=folder is not None)
    decided = crops if proposed is None else crops.decide(proposed.mean_area)
    return decided, proposed, notes


def check_crops(crops: RegionPolicy, asked: str | None, data: str, *, auto: bool = True) -> None:
    """Raise UserError for a policy that needs proposals where none are named and the data cannot hold any.

    auto: whether `auto` would give some.
    """
    may_hold = data.startswith("shards:")  # only once it is opened it is known
    if crops.needs_proposals and asked is None and not may_hold:
        raise _no_proposals(crops, data, auto=auto)


def _no_proposals(crops: RegionPolicy, data: str, *, auto: bool) -> UserError:
    other = f"add --proposals {AUTO}, or " if auto else ""
    return UserError(
        f"crops.name: {policy_name(crops)!r} needs object proposals; {other}make them once with "
        f"`scenewise propose {shlex.quote(data)} --out proposals.arrow` and add --proposals proposals.arrow"
    )


def check_proposals(asked: str | None, *, field: str = FIELD) -> None:
    """Raise UserError for a proposal file that cannot be one, before any image is looked at; field: what named it."""
    if asked not in (None, AUTO, LABELS):
        read_header(Path(asked), field=field)


def absolute_proposals(asked: str | None) -> str | None:
    """Return `data.proposals` as a run records it: a file by its absolute path."""
    return asked if asked in (None, AUTO, LABELS) else str(Path(asked).absolute())
