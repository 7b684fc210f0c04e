"""COCO's instances files: images, categories, boxes; every mistake in them is named by file and record."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from scenewise.errors import Problems, UserError
from scenewise.sources.objects import OBJECT, REGION, clip, make_table, per_image

_LISTS = ("images", "annotations", "categories")
_KEPT = frozenset({*_LISTS, "id", "file_name", "height", "width", "name", "image_id", "category_id", "bbox", "iscrowd"})


class _Instances(NamedTuple):
    """One entry an annotation: row of its image, number of its category, box, whether it is a crowd."""

    images: np.ndarray
    numbers: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray


def read_instances(file: Path) -> pa.Table:
    """Return the images of an instances file with their objects (see objects.make_table), in the file's order.

    Columns besides: file_name, height, width (as the file says), and of each object its position among the file's
    annotations. Facts: classes, clipped, dropped, crowds. A crowd is a region, whose box is clipped without a word: its
    class is not judged in the image unless another object of it is there. UserError for what is not JSON, not such a
    file, or wrong in it.
    """
    content = load_instances(file, _keep)
    names, sizes, rows = _read_images(file, content["images"])
    classes = _read_categories(file, content["categories"])
    numbers = {identity: number for number, identity in enumerate(classes)}
    instances = _read_annotations(file, content["annotations"], rows, numbers)
    single = ~instances.crowd
    within = clip(instances.boxes, sizes[instances.images])
    problems = Problems()
    for position in np.flatnonzero(within.outside & (single | np.isnan(instances.boxes).any(axis=1))):
        row = int(instances.images[position])
        shown = ", ".join(f"{value:g}" for value in instances.boxes[position])
        problems.add(
            f"data: {file}, {record(content['annotations'], int(position))}: the box ({shown}: left, top, right, "
            f"bottom) lies more than 1 px outside its image {names[row]} of {sizes[row, 1]} x {sizes[row, 0]} pixels"
        )
    problems.check()
    kept = np.flatnonzero(~within.empty | instances.crowd)
    return make_table(
        instances.images[kept],
        within.boxes[kept],
        instances.numbers[kept],
        np.where(instances.crowd[kept], REGION, OBJECT),
        annotated=np.ones(len(names), bool),
        columns={
            "file_name": pa.array(names, pa.string()),
            "height": pa.array(sizes[:, 0], pa.int32()),
            "width": pa.array(sizes[:, 1], pa.int32()),
            "position": per_image(instances.images[kept], kept.astype(np.int32), len(names)),
        },
        facts={
            "classes": list(classes.values()),
            "clipped": int((within.moved & single).sum()),
            "dropped": int((within.empty & single).sum()),
            "crowds": int(instances.crowd.sum()),
        },
    )


def load_instances(file: Path, keep: Callable[[list[tuple[str, Any]]], dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the content of an instances file with its three lists; keep: makes a dict of what each object holds.

    UserError for what is not JSON or no such file.
    """
    try:
        with file.open(encoding="utf-8") as stream:
            content = json.load(stream, object_pairs_hook=keep)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"data: {file} cannot be read as JSON: {error}") from None
    missing = [name for name in _LISTS if not isinstance(content, dict) or not isinstance(content.get(name), list)]
    if missing:
        raise UserError(
            f"data: {file} has no list called {' and '.join(missing)}; a COCO instances file has {', '.join(_LISTS)}"
        )
    if not content["images"]:
        raise UserError(f"data: {file} lists no image")
    return dict(content)


def _keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Drop what is not needed while the file is parsed: the polygons of train2017 would take gigabytes."""
    return {name: value for name, value in pairs if name in _KEPT}


def _read_images(file: Path, images: list[Any]) -> tuple[list[str], np.ndarray, dict[int | str, int]]:
    names, sizes, rows, problems = dict[str, int](), list[tuple[int, int]](), dict[int | str, int](), Problems()
    for position, each in enumerate(images):
        try:
            identity, name, size = each["id"], each["file_name"], (each["height"], each["width"])
            well_formed = isinstance(identity, int | str) and isinstance(name, str) and name != ""
            well_formed &= all(isinstance(side, int) and 0 < side < 2**31 for side in size)
        except (TypeError, KeyError):
            well_formed = False
        if not well_formed:
            problems.add(f"data: {file}, images[{position}]: needs id, file_name, and height and width in pixels")
            continue
        if identity in rows:
            problems.add(f"data: {file}, images[{position}]: id {identity} is already that of images[{rows[identity]}]")
        elif name in names:
            problems.add(f"data: {file}, images[{position}]: {name} is already in images[{names[name]}]")
        elif name.startswith("/") or ".." in name.split("/"):
            problems.add(f"data: {file}, images[{position}]: file_name {name!r} leads out of the folder of images")
        rows.setdefault(identity, len(sizes))
        names.setdefault(name, position)
        sizes.append(size)
    problems.check()
    return list(names), np.array(sizes, np.int64).reshape(-1, 2), rows


def _read_categories(file: Path, categories: list[Any]) -> dict[int | str, str]:
    classes, problems = dict[int | str, str](), Problems()
    for position, each in enumerate(categories):
        try:
            identity, name = each["id"], each["name"]
            well_formed = isinstance(identity, int | str) and isinstance(name, str) and name != ""
        except (TypeError, KeyError):
            well_formed = False
        if not well_formed:
            problems.add(f"data: {file}, categories[{position}]: needs id and name")
        elif identity in classes or name in classes.values():
            problems.add(f"data: {file}, categories[{position}]: id {identity} or name {name!r} is there already")
        else:
            classes[identity] = name
    problems.check()
    if not classes:
        raise UserError(f"data: {file} lists no category")
    return classes


def _read_annotations(
    file: Path, annotations: list[Any], rows: dict[int | str, int], numbers: dict[int | str, int]
) -> _Instances:
    images, classes, crowd, boxes, problems = array("q"), array("h"), array("b"), array("d"), Problems()
    for position, each in enumerate(annotations):
        try:
            row, number, alone = rows.get(each["image_id"]), numbers.get(each["category_id"]), each.get("iscrowd", 0)
            left, top, width, height = each["bbox"]
            if row is not None and number is not None and alone in (0, 1):
                boxes.fromlist([left, top, left + width, top + height])  # all four or none
                images.append(row)
                classes.append(number)
                crowd.append(int(alone))
                continue
        except (TypeError, KeyError, ValueError, AttributeError):
            fault = "needs image_id, category_id and bbox, the numbers left, top, width and height"
        else:
            if row is None:
                fault = f"image_id {each['image_id']!r} is not that of an image in this file"
            elif number is None:
                known = ", ".join(map(str, list(numbers)[:3])) + (", ..." if len(numbers) > 3 else "")
                fault = f"category_id {each['category_id']!r} is unknown; the {len(numbers)} categories are {known}"
            else:
                fault = f"iscrowd is {alone!r}; allowed are 0 and 1"
        problems.add(f"data: {file}, {record(annotations, position)}: {fault}")
    problems.check()
    return _Instances(
        np.frombuffer(images, np.int64),
        np.frombuffer(classes, np.int16),
        np.frombuffer(boxes, np.float64).reshape(-1, 4).round(6),  # 0.1 + 0.2 must not lie outside 0.3
        np.frombuffer(crowd, np.int8) == 1,
    )


def record(annotations: list[Any], position: int) -> str:
    """Return how an annotation is named in a message: its place in the list, and its id where it has one."""
    each = annotations[position]
    identity = each.get("id") if isinstance(each, dict) else None
    return f"annotations[{position}]" + ("" if identity is None else f" (id {identity})")
