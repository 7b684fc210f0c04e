"""The images of a data set into tar files, in their order: made by several processes, written by one."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from scenewise.engine.display import Display
from scenewise.engine.in_order import in_order
from scenewise.engine.signals import Signals
from scenewise.errors import Interrupted
from scenewise.tools.pack_images import Images, Prepared
from scenewise.tools.pack_journal import Journal, Line
from scenewise.tools.pack_tar import ShardFile

BLOCK = 256  # images between two times that all is on the disk: what a kill costs at most, a second or two of work
SHARD = re.compile(r"(.+)-(\d{5,})\.tar")


def write_shards(
    out: Path,
    journal: Journal,
    images: Images,
    *,
    names: Sequence[str],
    shard_images: int,
    workers: int,
    display: Display,
) -> None:
    """Write the images that the journal does not have yet. What is done is kept whatever happens.

    names: what the files of each split begin with. Raises Interrupted once all that is done is kept.
    """
    with (
        Signals() as signals,
        display.bar("packing", len(images)) as bar,
        closing(_Writer(out, journal, names=names, shard_images=shard_images)) as writer,
    ):
        try:
            for done, prepared in enumerate(in_order(images, start=journal.images, workers=workers), journal.images):
                writer.add(done, prepared)
                bar.update(done + 1)
                if signals.received:
                    raise Interrupted(signals.received)
        finally:
            writer.keep()
        writer.finish()
    if signals.received:
        raise Interrupted(signals.received)


class _Writer:
    """Puts images into the shard that is open, and begins the next one where it is full or the split ends."""

    def __init__(self, out: Path, journal: Journal, *, names: Sequence[str], shard_images: int) -> None:
        self._out, self._journal, self._names, self._most = out, journal, names, shard_images
        self._pending: list[Line] = []
        self._shard: ShardFile | None = None
        self._split = self._number = 0
        if journal.tail is not None:
            tail = journal.tail
            self._shard = ShardFile(out / tail.shard, images=tail.images, length=tail.length)
            found = SHARD.fullmatch(tail.shard)
            assert found is not None, "the journal names shards as they are named here"
            self._split, self._number = tail.split, int(found[2])

    def add(self, number: int, prepared: Prepared) -> None:
        """Write an image, the `number`-th of all."""
        if prepared.reason:
            line = Line(prepared.split, prepared.key, prepared.reason)
        else:
            shard = self._open(prepared.split)
            sidecar = json.dumps(prepared.sidecar, separators=(",", ":")).encode("ascii") + b"\n"
            place = shard.add(f"{number:09}", prepared.content, sidecar)
            checksum = zlib.crc32(prepared.content)
            line = Line(
                split=prepared.split,
                key=prepared.key,
                shard=shard.path.name,
                offset=place.offset,
                length=len(prepared.content),
                checksum=checksum,
                end=place.end,
                sidecar=prepared.sidecar,
            )
        self._pending.append(line)
        if len(self._pending) == BLOCK:
            self.keep()

    def _open(self, split: int) -> ShardFile:
        shard = self._shard
        if shard is not None and split == self._split and shard.images < self._most:
            return shard
        self.finish()
        self._number = 0 if shard is None or split != self._split else self._number + 1
        self._split = split
        path = self._out / f"{self._names[split]}-{self._number:05}.tar"
        self._shard = ShardFile(path)
        return self._shard

    def keep(self) -> None:
        """See to it that all that is written is on the disk, then that the journal says so."""
        if self._shard is not None and self._pending:
            self._shard.sync()
        self._journal.append(self._pending)
        self._pending = []

    def finish(self) -> None:
        """End the shard that is open."""
        if self._shard is not None:
            self._shard.finish()
            self.close()

    def close(self) -> None:
        """Let go of the shard's file."""
        if self._shard is not None:
            self._shard.close()
            self._shard = None
