"""The folder that images are packed into: may it be used, is there something to go on with, what may be removed."""

from __future__ import annotations

import re
from pathlib import Path

from scenewise.engine.begun import check_same
from scenewise.engine.display import Display
from scenewise.engine.folder import writing
from scenewise.engine.logs import SKIPPED
from scenewise.errors import UserError
from scenewise.sources.shards_format import INDEX, JOURNAL, MANIFEST, OBJECTS, Manifest, Origin, parse_manifest
from scenewise.tools.pack_journal import Journal, start_journal
from scenewise.tools.pack_tar import checksum_file
from scenewise.tools.pack_writing import SHARD

SHOWN = 4  # values that differ: of a folder with many splits there are many


def check_out(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise UserError when nothing may be packed there."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out: {str(out)!r} is a file; name a folder that does not exist yet")
    with writing(out):
        there = sorted(entry.name for entry in out.iterdir()) if out.is_dir() else []
    packed = MANIFEST in there or JOURNAL in there
    foreign = [name for name in there if not packed or not is_own(name)]
    if foreign:
        raise UserError(f"--out: {str(out)!r} holds other files ({', '.join(foreign[:3])}); name a new or empty folder")
    if there and not resume and not overwrite:
        raise UserError(
            f"--out: {str(out)!r} exists; name another folder, go on with --resume where it was interrupted, or "
            "replace it with --overwrite"
        )


def is_own(name: str) -> bool:
    """Tell whether a file of a packed folder is one that we write there, under its name or a temporary one."""
    plain = name.removeprefix(".").removesuffix(".tmp").removesuffix(".partial")
    if plain in (MANIFEST, JOURNAL, INDEX, OBJECTS, SKIPPED) or re.fullmatch(r"proposals-.+\.arrow", plain):
        return True
    return SHARD.fullmatch(name.removesuffix(".sha256")) is not None


def read_manifest(out: Path) -> Manifest:
    """Return the manifest of a folder that is complete."""
    return parse_manifest((out / MANIFEST).read_text(encoding="utf-8"), str(out / MANIFEST))


def begin(out: Path, origin: Origin, *, resume: bool, overwrite: bool, display: Display) -> Journal | None:
    """Return the journal to go on from, without lines for a fresh start; None where the folder is complete."""
    path = out / JOURNAL
    try:
        if resume and path.exists():
            journal = Journal(path)
            try:
                check_same(path, journal.origin, origin, most=SHOWN)
                _remove_stale(out, journal)
            except BaseException:
                journal.close()
                raise
            display.say(f"going on after {journal.images} of {sum(each.images for each in origin.splits)} images")
            return journal
        if resume and (out / MANIFEST).exists():
            check_same(out, read_manifest(out).origin, origin, most=SHOWN)
            display.say(f"{out} is complete: nothing to do")
            return None
    except UserError:
        if not overwrite:
            raise
    else:
        if resume:
            display.say(f"nothing to resume in {out}: starting from the beginning")
    out.mkdir(parents=True, exist_ok=True)
    journal = start_journal(path, origin)
    _remove_stale(out, journal)
    return journal


def _remove_stale(out: Path, journal: Journal) -> None:
    """Remove what a former packing has left in the folder; the manifest first, without which it is not whole."""
    kept = {JOURNAL, *journal.shards, *(checksum_file(Path(shard)).name for shard in journal.shards)}
    for path in sorted(out.iterdir(), key=lambda path: path.name != MANIFEST):
        if is_own(path.name) and path.name not in kept:
            path.unlink()
