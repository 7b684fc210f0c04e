"""Small stand-ins: sources of plain coloured images in memory, and a backbone that sees their mean colour."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from scenewise.errors import ImageError
from scenewise.sources.base import Source
from scenewise.types import Record


class Colours(Source):
    """Images of one colour each with a little noise; class number = nearest corner of the colour cube."""

    def __init__(self, name, colours, labels, *, classes, bad=(), notes=()):
        self.spec, self.fingerprint, self.splits, self.notes = f"colours:{name}", name, None, notes
        self.colours, self._labels, self.bad = colours, labels, frozenset(bad)
        self.classes, self.multi_label = classes, labels is not None and labels.ndim == 2
        self.read_count = 0

    @property
    def unreadable(self):
        return ()

    def __len__(self):
        return len(self.colours)

    def labels(self):
        return self._labels

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)

        def read():
            self.read_count += 1
            if index in self.bad:
                raise ImageError("truncated")
            noise = np.random.default_rng(index).integers(-3, 4, (20, 30, 3))
            return (self.colours[index] + noise).clip(0, 255).astype(np.uint8)

        return Record(index=index, key=f"{index}.png", size=(20, 30), orientation=1, read=read)


class MeanColour(nn.Module):
    """(B, 3, S, S) -> (B, 6): the mean and the deviation of each channel, scaled by a weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))
        self.calls = []

    def forward(self, images):
        self.calls.append((len(images), self.training, torch.is_grad_enabled()))
        return self.weight * torch.cat([images.mean(dim=(2, 3)), images.std(dim=(2, 3))], dim=1)


@pytest.fixture
def backbone():
    return MeanColour().train()


@pytest.fixture
def make_source():
    """Return a function that makes a source, one or several classes an image, whose labels follow from the colours."""

    def make(name, images=60, *, multi=False, seed=0, labelled=True, **more):
        chance = np.random.default_rng([seed, len(name), *map(ord, name)])
        bright = chance.integers(0, 2, (images, 3))
        colours = 60 + 130 * bright + chance.integers(-20, 21, (images, 3))
        labels = bright.astype(np.int8) if multi else (bright[:, 0] + 2 * bright[:, 1]).astype(np.int64)
        classes = ("red", "green", "blue") if multi else ("none", "red", "green", "yellow")
        return Colours(name, colours, labels if labelled else None, classes=classes, **more)

    return make


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Keep the cache of every test to itself."""
    monkeypatch.setenv("SCENEWISE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
