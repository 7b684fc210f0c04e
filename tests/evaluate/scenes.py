"""Scenes of coloured rectangles in memory, with the boxes and masks of what is visible of them."""

from __future__ import annotations

import functools

import numpy as np

from scenewise.errors import ImageError
from scenewise.sources.base import Instances, Source
from scenewise.types import Record

CLASSES = ("red", "green", "blue")
COLOURS = np.array([[220, 40, 40], [40, 200, 60], [50, 70, 230]])


class Rectangles(Source):
    """Grey noise with one to three rectangles, later ones before earlier ones; the class of each is its colour.

    empty: images without a rectangle. bad: images that cannot be read. classes: numbers of the classes drawn. ignored:
    share of the rectangles that are neither rewarded nor punished. unlabelled: images nobody has looked at for objects.
    """

    multi_label = True
    splits = None
    notes = ()

    def __init__(
        self, name, images, seed=0, *, side=64, empty=(), bad=(), classes=(0, 1, 2), ignored=0.0, unlabelled=()
    ):
        self.spec, self.fingerprint, self.classes = f"rectangles:{name}", f"{name}-{images}-{seed}", CLASSES
        self.count, self.side, self.bad = images, side, frozenset(bad)
        self.empty, self.unlabelled = frozenset(empty), frozenset(unlabelled)
        self.drawn, self.share = classes, ignored
        self.seed = [seed, *map(ord, name)]

    @property
    def unreadable(self):
        return ()

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError(index)
        size = self.scene(index)[0].shape[:2]
        return Record(index, f"{self.spec}/{index}", size, 1, functools.partial(self.read, index))

    def read(self, index):
        if index in self.bad:
            raise ImageError("truncated")
        return self.scene(index)[0]

    def labels(self):
        return np.stack(
            [np.bincount(self.instances(i).classes, minlength=3).clip(0, 1) for i in range(self.count)]
        ).astype(np.int8)

    def with_boxes(self):
        return ~np.isin(np.arange(self.count), list(self.unlabelled))

    def with_masks(self):
        return self.with_boxes()

    def instances(self, index, *, masks=False):
        _, owner, classes, ignored = self.scene(index)
        seen = [number for number in range(len(classes)) if (owner == number).any()]
        shapes = np.stack([owner == number for number in seen]) if seen else np.zeros((0, *owner.shape), bool)
        boxes = [
            (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) for rows, columns in map(np.nonzero, shapes)
        ]
        return Instances(
            np.array(boxes, np.float32).reshape(-1, 4),
            classes[seen],
            ignored[seen],
            shapes if masks else None,
        )

    def class_map(self, index):
        _, owner, classes, _ = self.scene(index)
        return np.array([0, *(classes + 1)], np.uint8)[owner + 1]

    def scene(self, index):
        """Return the pixels (H, W, 3), which rectangle owns each (H, W; -1 none), their classes and ignored flags."""
        chance = np.random.default_rng([*self.seed, index])
        height, width = self.side, self.side + int(chance.integers(0, self.side // 4))
        pixels = chance.integers(100, 140, (height, width, 3)).astype(np.uint8)
        owner = np.full((height, width), -1)
        count = 0 if index in self.empty else int(chance.integers(1, 4))
        classes = chance.choice(self.drawn, count).astype(np.int64)
        for number, kind in enumerate(classes):
            tall, wide = chance.integers(self.side // 4, self.side // 2, 2)
            top, left = chance.integers(0, height - tall), chance.integers(0, width - wide)
            pixels[top : top + tall, left : left + wide] = COLOURS[kind]
            owner[top : top + tall, left : left + wide] = number
        return pixels, owner, classes, chance.random(count) < self.share
