"""A study's pool: one spec of data, or several put together in a folder of links; and its object proposals."""

from __future__ import annotations

from pathlib import Path

from scenewise.engine.display import Display
from scenewise.engine.folder import writing
from scenewise.engine.proposing_files import partial_file
from scenewise.engine.run import open_with_display
from scenewise.errors import UserError
from scenewise.sources import parse_spec
from scenewise.studies import Boxes
from scenewise.tools.propose import propose

POOL = "pool"


def pool_spec(data: str | tuple[str, ...], out: Path) -> str:
    """Return the spec of the pool, which `make_pool` may still have to make."""
    if isinstance(data, str):
        return data
    if len(data) == 1:
        return data[0]
    return f"folder:{out / POOL}"


def make_pool(data: str | tuple[str, ...], out: Path, display: Display) -> None:
    """Make the folder of links of a pool of several specs; a link that is there stays.

    Each spec has a folder of its own, numbered, and its images keep their paths below it. UserError for data whose
    images are no files of their own, and for a pool that holds what is not asked for.
    """
    if isinstance(data, str) or len(data) < 2:
        return
    wanted = {}
    for number, spec in enumerate(data):
        source = open_with_display(spec, display)
        parsed = parse_spec(source.spec)
        base = Path(parsed.options.get("root", parsed.path))
        folder = base if base.is_dir() else base.parent
        for index in range(len(source)):
            key = source[index].key
            if not (folder / key).is_file():
                raise UserError(
                    f"data: the images of {spec!r} are no files that could be put into one folder with others"
                )
            wanted[out / POOL / str(number) / key] = (folder / key).resolve()
    with writing(out):
        found = {path for path in (out / POOL).rglob("*") if path.is_symlink() or path.is_file()}
        foreign = sorted(found - wanted.keys())
        if foreign:
            more = f" and {len(foreign) - 1} more are" if len(foreign) > 1 else " is"
            raise UserError(
                f"data: {str(out / POOL)!r} was made of other data ({foreign[0].name}{more} not asked for); name "
                "another --out"
            )
        for link, target in wanted.items():
            if link not in found:
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(target)


def make_boxes(
    boxes: Boxes, file: Path, data: str, *, like: Path | None, workers: int | None, display: Display
) -> None:
    """Make the proposals of a pool once, or go on with them.

    like: the file of the boxes that these take their sizes from. Raises UserError, and Interrupted once what is done is
    kept.
    """
    if file.exists():
        return
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    propose(
        data,
        out=file,
        generator=boxes.generator,
        keep=boxes.keep,
        seed=boxes.seed,
        workers=workers,
        bing_model=boxes.bing_model,
        like=like,
        mode=boxes.mode,
        working_size=boxes.working_size,
        resume=partial_file(file).exists(),
        display=display,
    )
