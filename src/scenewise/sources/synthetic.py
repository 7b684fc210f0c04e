"""`synthetic:N`: generated scenes of 2-6 textured objects of 12 kinds on clutter, with labels, boxes and masks."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
from typing import final

import numpy as np

from scenewise.errors import UserError, unknown_name
from scenewise.sources import scene_drawing, scene_plan
from scenewise.sources.base import Instances, LabelledBoxes, Labels, Source, check_index
from scenewise.sources.masks import stacked
from scenewise.sources.scene_kinds import KINDS
from scenewise.sources.spec import Spec
from scenewise.types import Record, Skip

_SPLITS = ("train", "test")
_DRAWING = 2  # raise when the same seed gives other scenes


@final
class SyntheticSource(Source):
    """Scenes made when they are read: scene i is a function of (data seed, split, i), whatever the number of scenes.

    The run's own seed has no part in it, and no test scene is a train scene. Nothing is stored, so the size of the data
    costs nothing. Key: the split and the number.
    """

    def __init__(self, spec: Spec, *, split: str | None) -> None:
        self._split = spec.options.get("split", split or "train")
        if self._split not in _SPLITS:
            raise UserError(unknown_name("data: option split of synthetic", self._split, _SPLITS))
        self._count = _number(spec.path, "the number of scenes in synthetic:", least=1)
        self._seed = _number(spec.options.get("seed", "0"), "option seed of synthetic", least=0)
        self.spec = Spec("synthetic", str(self._count)).canonical(seed=str(self._seed), split=self._split)
        self.classes = tuple(kind.name for kind in KINDS)
        self.multi_label = True
        self.splits = ("train", "test")
        self.notes = ()
        state = (_DRAWING, self.spec, importlib.metadata.version("numpy"))
        self.fingerprint = hashlib.blake2b(repr(state).encode(), digest_size=16).hexdigest()

    @property
    def unreadable(self) -> tuple[Skip, ...]:
        """Always empty."""
        return ()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Record:
        content = scene_plan.content(self._seed, self._split, check_index(index, self._count))
        read = functools.partial(_pixels, self._seed, self._split, index)
        return Record(index, f"{self._split}/{index}", content.size, 1, read, _vector(content.kinds))

    def labels(self) -> Labels | None:
        """Return (N, 12) int8: 1 where a scene holds an object of the kind."""
        contents = (scene_plan.content(self._seed, self._split, index) for index in range(self._count))
        return np.stack([_vector(content.kinds) for content in contents])

    def boxes(self, index: int) -> LabelledBoxes:
        """Return the (n, 4) boxes around what is visible of each object, farthest first, and the kind of each."""
        found = self.instances(index)
        return found.boxes, found.classes

    def with_boxes(self) -> np.ndarray:
        """Return (N,) True."""
        return np.ones(self._count, bool)

    def with_masks(self) -> np.ndarray:
        """Return (N,) True."""
        return np.ones(self._count, bool)

    def instances(self, index: int, *, masks: bool = False) -> Instances:
        """Return what can be seen of the objects of a scene, farthest first; none is ignored."""
        scene = self._scene(index)
        boxes, kinds, seen = [], [], []
        for number, kind in enumerate(scene.kinds, start=1):
            mask = scene.instances == number
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            if len(rows):
                boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
                kinds.append(kind)
                seen.append(mask)
        return Instances(
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array(kinds, np.int64),
            np.zeros(len(kinds), bool),
            stacked(seen, scene.instances.shape) if masks else None,
        )

    def class_map(self, index: int) -> np.ndarray:
        """Return (H, W) uint8: kind + 1 of each pixel, 0 for what is no object, the twigs before one among it."""
        scene = self._scene(index)
        classes: np.ndarray = np.array([0, *(kind + 1 for kind in scene.kinds)], np.uint8)[scene.instances]
        return classes

    def _scene(self, index: int) -> scene_drawing.Scene:
        return scene_drawing.draw(self._seed, self._split, check_index(index, self._count))


def _pixels(seed: int, split: str, index: int) -> np.ndarray:
    return scene_drawing.draw(seed, split, index).pixels


def _vector(kinds: tuple[int, ...]) -> np.ndarray:
    labels = np.zeros(len(KINDS), np.int8)
    labels[list(kinds)] = 1
    return labels


def _number(text: str, field: str, *, least: int) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) < least:
        raise UserError(
            f"data: {field} is {text!r}; expected a whole number of at least {least}, as in synthetic:2000?seed=0"
        )
    return int(text)
