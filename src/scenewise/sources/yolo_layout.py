"""Where a YOLO data set has its images, and what its classes are called: a dataset YAML, or folders alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import yaml

from scenewise.errors import Problems, UserError, unknown_name
from scenewise.sources.headers import ENDINGS
from scenewise.sources.walk import Walk

_YAML = (".yaml", ".yml")
_NAMES = ("classes.txt", "labels/classes.txt", "obj.names")  # as labelImg and darknet write them, one name a line
_LAYOUT = (
    "a YOLO data set is a YAML file with path, train, val and names, or a folder with images/train, images/val, "
    "labels/train, labels/val and such a YAML file or classes.txt (one name a line)"
)


class Layout(NamedTuple):
    """One split: the folder that keys start from, the images by absolute path, the classes by number."""

    root: Path
    images: list[bytes]
    names: tuple[str, ...]


def find_split(path: Path, split: str) -> Layout:
    """Return the images of a split in byte order (or that of their list) and the names of the classes.

    path: a dataset YAML, or a folder. UserError for what is neither, a split that is not there or holds no image,
    names that are missing or not unique.
    """
    if path.suffix.lower() in _YAML and path.is_file():
        return _from_yaml(path, split)
    if not path.is_dir():
        raise UserError(f"data: no such {'file' if path.suffix.lower() in _YAML else 'folder'}: {path}; {_LAYOUT}")
    described = _described_by(path)
    if described is not None:
        return _from_yaml(described, split)
    folders = (path / "images" / split, path / split / "images")
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is None:
        there = {folder.name for folder in path.glob("images/*/")} | {
            folder.parent.name for folder in path.glob("*/images/")
        }
        if there:
            raise UserError(unknown_name("data: option split of yolo:", split, there) + f" (in {path})")
        raise UserError(f"data: {path} has no images/{split} and no YAML file; {_LAYOUT}")
    named = next((path / name for name in _NAMES if (path / name).is_file()), None)
    if named is None:
        raise UserError(f"data: {path} does not say what its classes are called; {_LAYOUT}")
    names = [line.strip() for line in _text(named).splitlines() if line.strip()]
    return Layout(_real(path), _images([found], split, path), _checked(names, named))


def _described_by(folder: Path) -> Path | None:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _YAML)
    usual = [file for file in files if file.stem in ("data", "dataset")]
    if len(usual or files) > 1:
        listed = ", ".join(file.name for file in usual or files)
        raise UserError(f"data: {folder} has several YAML files ({listed}); name the one that describes the data")
    return next(iter(usual or files), None)


def _from_yaml(file: Path, split: str) -> Layout:
    content = _load(file)
    wanted = content.get(split)
    if not wanted:
        splits = [name for name in ("train", "val", "test", "minival") if content.get(name)]
        raise UserError(unknown_name("data: option split of yolo:", split, splits) + f" (in {file})")
    entries = [entry for entry in (wanted if isinstance(wanted, list) else [wanted]) if isinstance(entry, str)]
    if len(entries) != (len(wanted) if isinstance(wanted, list) else 1):
        raise UserError(f"data: {file}: {split} is {wanted!r}; it must be a folder of images or a list of folders")
    said = content.get("path") or "."
    if not isinstance(said, str):
        raise UserError(f"data: {file}: path is {said!r}; it must be a folder")
    # Ultralytics looks for a relative path in its own folder of data sets; data that were moved lie beside the YAML.
    roots = dict.fromkeys((_real(file.parent / said), _real(file.parent)))
    for root in roots:
        places = [_place(root, entry) for entry in entries]
        if all(place is not None for place in places):
            found = [place for place in places if place is not None]
            return Layout(root, _images(found, split, file), _names(file, content))
    tried = " nor in ".join(map(str, roots))
    raise UserError(f"data: {file}: {split} is {wanted!r}, which is not in {tried}; correct path or {split}")


def _place(root: Path, entry: str) -> Path | None:
    """Return where an entry leads; as Roboflow's `../train/images` is meant, without the first two dots too."""
    candidates = (root / entry, root / entry.removeprefix("../"))
    return next((place for place in candidates if place.exists()), None)


def _load(file: Path) -> Mapping[str, object]:
    try:
        content = yaml.safe_load(_text(file))
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no such day, among dates
        if isinstance(error, UserError):
            raise
        raise UserError(f"data: {file} cannot be read as YAML: {error}") from None
    if not isinstance(content, dict) or "names" not in content:
        raise UserError(f"data: {file} has no names (of the classes); {_LAYOUT}")
    if "kpt_shape" in content:
        raise UserError(f"data: {file} has kpt_shape: labels of poses are not read, only boxes and polygons")
    return content


def _names(file: Path, content: Mapping[str, object]) -> tuple[str, ...]:
    names = content["names"]
    if isinstance(names, dict):
        if {*map(type, names)} - {int} or sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise UserError(f"data: {file}: names must number the classes 0 to {len(names) - 1}, each once")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list):
        raise UserError(f"data: {file}: names is {names!r}; it must be a list of the classes, or number: name")
    count = content.get("nc", len(names))
    if type(count) is not int:
        raise UserError(
            f"data: {file}: nc is {count!r} ({type(count).__name__}); it must be a whole number: nc: {len(names)}"
        )
    if count != len(names):
        raise UserError(f"data: {file}: nc is {count}, but there are {len(names)} names")
    for number, name in enumerate(names):
        if not isinstance(name, str):  # YAML reads yes, no, null, 1.10 and dates as such, and str() would rename them
            raise UserError(
                f"data: {file}: the name of class {number} is {name!r} ({type(name).__name__}), no text; quote it in "
                'names, for example "no"'
            )
    return _checked(names, file)


def _checked(names: list[str], file: Path) -> tuple[str, ...]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        fault = f"calls two classes {twice[0]!r}" if twice else "names no class"
        raise UserError(f"data: {file} {fault}")
    return tuple(names)


def _images(places: list[Path], split: str, where: Path) -> list[bytes]:
    images: list[bytes] = []
    for place in places:
        if place.is_dir():
            base = os.fsencode(_real(place)) + b"/"
            images += [base + found.path for found in Walk(base) if found.reason is None]
        elif place.suffix == ".txt":
            images += _listed(place)
        else:
            raise UserError(f"data: {where}: {split} leads to {place}, which is no folder and no .txt list of images")
    if not images:
        raise UserError(f"data: no image in {', '.join(map(str, places))} ({split} of {where})")
    return list(dict.fromkeys(images))


def _listed(file: Path) -> list[bytes]:
    images, problems = [], Problems()
    for line, text in enumerate(_text(file).splitlines(), start=1):
        if not text.strip():
            continue
        image = file.parent / text.strip()
        if not image.is_file():
            problems.add(f"data: {file}, line {line}: no such image: {text.strip()}")
        elif image.suffix.lower() not in ENDINGS:
            problems.add(f"data: {file}, line {line}: {text.strip()} is no image; endings are {', '.join(ENDINGS)}")
        images.append(os.fsencode(os.path.abspath(image)))  # noqa: PTH100 - lexical: a link keeps its own name
    problems.check()
    return images


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")  # editors on Windows put a byte order mark first
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data: cannot read {file}: {error}") from None
