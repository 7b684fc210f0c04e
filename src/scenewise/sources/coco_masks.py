"""The segmentations of COCO's instances files: kept as text beside the boxes, drawn when masks are asked for."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from scenewise.errors import Problems, UserError
from scenewise.sources.coco_json import load_instances, record
from scenewise.sources.masks import Mask, polygon_mask, read_counts, runs_mask, union
from scenewise.types import Size

_SHAPES = "a list of polygons (6 numbers or more, x and y in turn), or a size with counts"
_KEPT = frozenset({"images", "annotations", "categories", "id", "size", "counts"})


def read_segmentations(file: Path) -> pa.Table:
    """Return one row an annotation of an instances file, in its order: the segmentation as JSON, "" where it is empty.

    They are turned into text as soon as they are parsed: as Python's numbers, those of train2017 would take gigabytes.
    UserError for what is neither polygons nor run lengths.
    """
    content = load_instances(file, _keep)
    problems = Problems()
    for position, each in enumerate(content["annotations"]):
        if "fault" in each:
            problems.add(f"data: {file}, {record(content['annotations'], position)}: {each['fault']}")
    problems.check()
    texts = [each["segmentation"] for each in content["annotations"]]
    return pa.table({"segmentation": pa.array(texts, pa.large_string())})


def _keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    kept = {name: value for name, value in pairs if name in _KEPT}
    names = {name for name, _ in pairs}
    if "image_id" in names:
        segmentation = dict(pairs).get("segmentation")
        fault = _fault(segmentation)
        kept["segmentation"] = "" if not segmentation or fault else json.dumps(segmentation, separators=(",", ":"))
        if fault:
            kept["fault"] = fault
    return kept


def _fault(segmentation: object) -> str | None:
    """Return what is wrong with a segmentation, or None; its run lengths are only counted when it is drawn."""
    if segmentation is None:
        return None
    if isinstance(segmentation, dict):
        counts, size = segmentation.get("counts"), segmentation.get("size")
        text = isinstance(counts, str) or (isinstance(counts, list) and all(isinstance(each, int) for each in counts))
        if text and isinstance(size, list) and len(size) == 2:
            return None
    elif isinstance(segmentation, list) and all(_is_polygon(each) for each in segmentation):
        return None
    return f"its segmentation is not {_SHAPES}"


def _is_polygon(numbers: object) -> bool:
    if not isinstance(numbers, list) or len(numbers) < 6 or len(numbers) % 2:
        return False
    return all(isinstance(each, int | float) and math.isfinite(each) for each in numbers)


class Segmentations:
    """The segmentations of a kept table, by position of the annotation in its file. Pickles as a path."""

    def __init__(self, kept: Path) -> None:
        self._kept = kept
        self._open()

    def _open(self) -> None:
        try:
            with pa.memory_map(str(self._kept)) as source:
                texts = pa.ipc.open_file(source).read_all()["segmentation"]
            self._texts = texts.chunk(0) if texts.num_chunks else pa.array([], pa.large_string())
        except OSError:
            raise UserError(
                f"data: the labels kept in {self._kept} were remade by another process; start again"
            ) from None

    def __getstate__(self) -> Path:
        return self._kept

    def __setstate__(self, state: Path) -> None:
        self._kept = state
        self._open()

    def there(self) -> np.ndarray:
        """Return (annotations,) bool: whether an annotation has a segmentation."""
        filled: np.ndarray = pa.compute.binary_length(self._texts).to_numpy() > 0
        return filled

    def mask(self, position: int, size: Size, *, file: Path) -> Mask:
        """Return the pixels of an annotation; size: (height, width) of its image as `file`, where it is from, says.

        UserError when its run lengths are not those of such an image.
        """
        segmentation = json.loads(self._texts[position].as_py())
        if isinstance(segmentation, list):
            outlines = (np.array(each, np.float64).reshape(-1, 2) for each in segmentation)
            return union([polygon_mask(outline, size) for outline in outlines])
        try:
            if tuple(segmentation["size"]) != size:
                raise ValueError(f"it is {segmentation['size']} (height, width), the image {list(size)}")
            counts = segmentation["counts"]
            return runs_mask(read_counts(counts) if isinstance(counts, str) else counts, size)
        except ValueError as error:
            raise UserError(f"data: {file}, annotations[{position}]: the segmentation does not fit: {error}") from None
