"""What stands beside the shards: index, objects, proposals, who was left out, and the manifest, written last."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from scenewise.engine.logs import SKIPPED, write_skipped
from scenewise.engine.proposed import PACKED, StoredProposals
from scenewise.proposals.store import write_store
from scenewise.sources import Source
from scenewise.sources.shards_format import (
    FORMAT,
    INDEX,
    MANIFEST,
    OBJECTS,
    Contents,
    Manifest,
    Shard,
    Split,
    split_fingerprint,
)
from scenewise.tools.pack_images import BOXES
from scenewise.tools.pack_journal import Journal
from scenewise.tools.pack_tables import Rows, contents, write_index, write_objects, write_whole
from scenewise.tools.pack_tar import checksum_file
from scenewise.types import Skip


def finish(
    out: Path,
    journal: Journal,
    sources: Sequence[Source],
    proposals: Sequence[StoredProposals | None],
    *,
    names: Sequence[str],
    evaluation: tuple[str, str] | None,
) -> Manifest:
    """Write all that stands beside the shards once every image is in them, and return the manifest.

    sources, proposals, names: of each split, its images, their proposals, and what its files begin with.
    """
    classes, multi_label = sources[0].classes, sources[0].multi_label
    labelled = sources[0].labels() is not None
    shards = _shards(out, journal)
    index = write_index(out / INDEX, journal, shards, labelled=labelled, multi_label=multi_label, classes=len(classes))
    files = {INDEX: index}
    if any(BOXES in line.sidecar for line in journal):
        files[OBJECTS] = write_objects(out / OBJECTS, journal, classes)
    fingerprint = _digest([shard.sha256 for shard in shards] + [each.sha256 for each in files.values()])
    packed = Counter(line.split for line in journal if not line.reason)
    splits = []
    for number, (source, proposed) in enumerate(zip(sources, proposals, strict=True)):
        split = Split(
            name=journal.origin.splits[number].name,
            images=packed[number],
            left_out=len(source) - packed[number],
            notes=source.notes,
            proposals=None if proposed is None else f"proposals-{names[number]}.arrow",
        )
        if proposed is not None and split.proposals is not None:
            own = split_fingerprint(fingerprint, split.name)
            files[split.proposals] = _write_proposals(
                out / split.proposals, journal, number, proposed, own, split.images
            )
        splits.append(split)
    _write_skipped(out, journal, sources)
    manifest = Manifest(
        format=FORMAT,
        origin=journal.origin,
        classes=classes,
        labelled=labelled,
        multi_label=multi_label,
        evaluation=evaluation,
        splits=tuple(splits),
        shards=shards,
        files=files,
        fingerprint=fingerprint,
    )
    write_whole(out / MANIFEST, lambda temporary: temporary.write_text(manifest.to_text(), encoding="utf-8"))
    return manifest


def _digest(parts: Sequence[str]) -> str:
    return hashlib.blake2b(" ".join(parts).encode(), digest_size=16).hexdigest()


def _write_proposals(
    file: Path, journal: Journal, split: int, proposed: StoredProposals, fingerprint: str, images: int
) -> Contents:
    """Write the proposals of a split's packed images, whose origin is theirs but for the images they are of."""
    before = proposed.header.origin
    settings = {**before.settings, "packed_short_side": journal.origin.settings["short_side"]}
    origin = dataclasses.replace(before, settings=settings, source=PACKED, fingerprint=fingerprint, images=images)
    write_store(file, origin, Rows(journal, split, proposed))
    return contents(file)


def _shards(out: Path, journal: Journal) -> tuple[Shard, ...]:
    images = Counter(line.shard for line in journal if not line.reason)
    return tuple(
        Shard(
            name=name,
            images=count,
            bytes=(out / name).stat().st_size,
            sha256=checksum_file(out / name).read_text(encoding="utf-8").split()[0],
        )
        for name, count in images.items()
    )


def _write_skipped(out: Path, journal: Journal, sources: Sequence[Source]) -> None:
    """Write who was left out, by the index or by us; nothing where nobody was."""
    skipped = [skip for source in sources for skip in source.unreadable]
    counted: Counter[int] = Counter()
    for line in journal:
        if line.reason:
            skipped.append(Skip(counted[line.split], line.key, line.reason))
        counted[line.split] += 1
    if skipped:
        write_skipped(out, skipped)
    else:
        (out / SKIPPED).unlink(missing_ok=True)
