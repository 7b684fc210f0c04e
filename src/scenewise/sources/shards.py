"""`shards:`: images that `scenewise pack` has put into tar files, in a folder or behind an http address."""

from __future__ import annotations

from pathlib import Path
from typing import final

import numpy as np

from scenewise.errors import UserError, unknown_name
from scenewise.sources.base import Instances, LabelledBoxes, Labels, Progress, Source, check_index
from scenewise.sources.objects import Objects
from scenewise.sources.shards_format import INDEX, MANIFEST, OBJECTS, Manifest, Split, parse_manifest, split_fingerprint
from scenewise.sources.shards_index import ShardIndex
from scenewise.sources.shards_store import AddressStore, FolderStore, RangeReader, Store
from scenewise.sources.spec import Spec, is_address
from scenewise.types import Record, Skip
from scenewise.wording import counted


class _PackedSource(Source):
    """One split of a packed folder, in the order it had unpacked, with the keys, labels and sizes that are packed.

    An image is one range of bytes of one file, found by the memory-mapped index. We do not stream the shards from
    beginning to end through a shuffle buffer, as webdataset does: what comes out of its buffer, and when, depends on
    the number of workers and processes that share the shards, and to go on in the middle of an epoch it would have to
    be filled again. Ours is a source like any other: the order stays a function of (seed, epoch) and a part's images
    one of the step (`engine.data`), so the same seed gives the same bytes with any number of workers, and a run
    resumes exactly. Within a shard the reads are random; what is gained over a folder is smaller images, few files
    that are opened by name, and an index that is there from the start.
    """

    def __init__(
        self, spec: Spec, store: Store, manifest: Manifest, split: Split, index: ShardIndex, objects: Objects | None
    ) -> None:
        names = [each.name for each in manifest.splits]
        self._objects = objects
        self._store, self._shards, self._index = store, manifest.shards, index
        self._first = sum(each.images for each in manifest.splits[: names.index(split.name)])
        self._count = split.images
        self._proposals = None if split.proposals is None else (split.proposals, manifest.files[split.proposals])
        self.spec = spec.canonical(split=split.name)
        self.classes = manifest.classes
        self.multi_label = manifest.multi_label
        self.splits = manifest.evaluation
        self.notes = _notes(split, manifest)
        self.fingerprint = split_fingerprint(manifest.fingerprint, split.name)

    @property
    def unreadable(self) -> tuple[Skip, ...]:
        """Always empty: what cannot be read is not packed."""
        return ()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Record:
        place = self._index.place(self._row(index))
        read = RangeReader(self._store, self._shards[place.shard], place.offset, place.length, place.checksum)
        return Record(index, place.key, (place.height, place.width), 1, read, place.label)

    def labels(self) -> Labels | None:
        """Return (N,) class numbers, or (N, C) int8 of 1 present, 0 absent, -1 not judged; None without labels."""
        return self._index.labels(self._first, self._first + self._count)

    def packed_proposals(self) -> Path | None:
        """Return the file of the object proposals that were packed with these images, or None."""
        return None if self._proposals is None else self._store.file(*self._proposals)

    def _row(self, index: int) -> int:
        return self._first + check_index(index, self._count)


@final
class ShardsSource(_PackedSource):
    """Packed images without labelled boxes."""


@final
class ObjectShardsSource(_PackedSource):
    """Packed images with the labelled boxes they had, scaled as they were. Masks are not packed."""

    def boxes(self, index: int) -> LabelledBoxes:
        """Return the (n, 4) boxes that the unpacked data gave, in pixels of the packed image, and the class of each."""
        return self._known().boxes(self._row(index))

    def with_boxes(self) -> np.ndarray:
        """Return (N,) bool: which images somebody has looked at for objects."""
        return self._known().annotated()[self._first : self._first + self._count]

    def with_masks(self) -> np.ndarray:
        """Return (N,) False."""
        return np.zeros(self._count, bool)

    def instances(self, index: int, *, masks: bool = False) -> Instances:
        """Return the objects of an image; UserError for masks."""
        if masks:
            raise self._no_masks()
        return self._known().instances(self._row(index))

    def class_map(self, index: int) -> np.ndarray:
        """Raise UserError: there are no masks."""
        raise self._no_masks()

    def _known(self) -> Objects:
        assert self._objects is not None, "this source is opened where there are objects"
        return self._objects

    def _no_masks(self) -> UserError:
        return UserError(f"data: {self.spec} has no masks: they are not packed; use the unpacked data")


def open_shards(
    spec: Spec, *, split: str | None, progress: Progress | None = None
) -> ShardsSource | ObjectShardsSource:
    """Open a split of a packed folder, the first one unless `?split=` or `split` names another.

    Raises UserError where the folder is not there or not finished, a shard is missing or has another length, or there
    is no such split.
    """
    store: Store = AddressStore(spec.path) if is_address(spec.path) else FolderStore(Path(spec.path).absolute())
    manifest = parse_manifest(store.manifest(), f"{spec.path.rstrip('/')}/{MANIFEST}")
    store.check(manifest)
    chosen = _choose(manifest, spec.options.get("split", split), spec.path)
    index = ShardIndex(store.file(INDEX, manifest.files[INDEX], progress=progress), manifest)
    if OBJECTS not in manifest.files:
        return ShardsSource(spec, store, manifest, chosen, index, None)
    objects = _objects(store.file(OBJECTS, manifest.files[OBJECTS], progress=progress), manifest)
    return ObjectShardsSource(spec, store, manifest, chosen, index, objects)


def _choose(manifest: Manifest, asked: str | None, where: str) -> Split:
    names = [split.name for split in manifest.splits]
    if asked is None:
        return manifest.splits[0]
    if names == [""]:
        raise UserError(f"data: the shards in {where} have no splits, but {asked!r} is asked for")
    if asked not in names:
        raise UserError(unknown_name(f"data: option split of shards in {where}", asked, names))
    return manifest.splits[names.index(asked)]


def _objects(file: Path, manifest: Manifest) -> Objects:
    try:
        objects = Objects(file)
        fits = len(objects) == manifest.images and objects.classes == manifest.classes
    except (KeyError, ValueError, AssertionError):  # Arrow's errors are ValueErrors
        fits = False
    if not fits:
        raise UserError(f"data: {file} is damaged, or not of these shards; pack anew with --overwrite")
    return objects


def _notes(split: Split, manifest: Manifest) -> tuple[str, ...]:
    notes = [f"When {manifest.origin.data} was packed: {note}" for note in split.notes]
    if split.left_out:
        notes.append(f"Left out when packed: {counted(split.left_out, 'image')} that could not be read.")
    return tuple(notes)
