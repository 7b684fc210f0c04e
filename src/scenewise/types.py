"""The records that travel between the layers: frozen, torch and NumPy only."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

Image = np.ndarray  # (height, width, 3) uint8, RGB, upright
Colour = tuple[float, float, float]  # a value for red, green, blue

# of ImageNet's training images, values 0..1: what every method's code and every timm ResNet subtracts and divides by
IMAGENET_MEAN: Colour = (0.485, 0.456, 0.406)
IMAGENET_STD: Colour = (0.229, 0.224, 0.225)
Size = tuple[int, int]  # (height, width) in pixels, after the EXIF rotation


@dataclass(frozen=True, slots=True)
class Record:
    """One image of a source: cheap, holds no pixels.

    `size` is (height, width) of the upright image, after the EXIF rotation `orientation` (1..8, 1 = as stored).
    `read()` returns the encoded file, or the upright RGB pixels where the source has no files; it raises ImageError.
    `labels` is what the source knows of this image: a class number, a (classes,) int8 vector (1 present, 0 absent,
    -1 not to be judged), or None.
    """

    index: int
    key: str
    size: Size
    orientation: int
    read: Callable[[], bytes | np.ndarray]
    labels: int | np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Skip:
    """An image that was left out, and why; `replacement` is the index that took its place, or -1."""

    index: int
    key: str
    reason: str
    replacement: int = -1


class View(enum.IntEnum):
    """What a view was cut from."""

    SCENE = 0  # a random crop of the whole photo
    OBJECT = 1  # a crop inside an object's window
    CONTEXT = 2  # a crop inside the dilated or shifted window of an object
    INSTANCE = 3  # a whole object


class Effort(NamedTuple):
    """What loading took, summed over images: seconds of reading files, of decoding, of the rest; pixels of the photos.

    It depends on the machine and its load, so nothing that is trained may depend on it.
    """

    images: int = 0
    read: float = 0.0
    decode: float = 0.0
    rest: float = 0.0
    pixels: float = 0.0


NO_EFFORT = Effort()


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's input. V views of a slot, B images.

    index: (B,) source index of each image.
    views: slot -> (V, B, 3, size, size), uint8 from the loader, normalised float32 when a method sees it.
    boxes: slot -> (V, B, 4) where each view was cut, `x1, y1, x2, y2` in pixels of the upright photo.
    kinds: slot -> (V, B) int8, what each view was cut from: a `scenewise.types.View`.
    figures: name -> (B,) float32, what the region policy counted for each image (fallbacks, attempts, ...).
    photometry: slot -> (V, B, 12) float32, what is still to be done to the views on the device
    (`views.on_device.as_numbers`); empty when nothing is.
    skipped: images of this batch that could not be read and were replaced.
    effort: what loading it took.
    """

    index: Int[Tensor, " batch"]
    views: Mapping[str, Tensor]
    boxes: Mapping[str, Tensor]
    kinds: Mapping[str, Tensor] = field(default_factory=dict)
    figures: Mapping[str, Tensor] = field(default_factory=dict)
    photometry: Mapping[str, Tensor] = field(default_factory=dict)
    skipped: tuple[Skip, ...] = ()
    effort: Effort = NO_EFFORT

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Return the batch on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return the batch in pinned memory, as torch's data loader asks for it."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        return dataclasses.replace(
            self,
            index=function(self.index),
            views={name: function(view) for name, view in self.views.items()},
            boxes={name: function(box) for name, box in self.boxes.items()},
            kinds={name: function(kind) for name, kind in self.kinds.items()},
            figures={name: function(figure) for name, figure in self.figures.items()},
            photometry={name: function(numbers) for name, numbers in self.photometry.items()},
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands at a step: the `step`-th optimiser step (from 0) of `steps`."""

    step: int
    steps: int
    steps_per_epoch: int
    seed: int

    @property
    def fraction(self) -> float:
        """Share of the run that is done, 0..1."""
        return self.step / max(1, self.steps)

    @property
    def epoch(self) -> int:
        """Number of the current epoch, from 0."""
        return self.step // max(1, self.steps_per_epoch)


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a method's step returns.

    loss: scalar with gradient.
    terms: the parts of the loss by name, each a scalar of its own weight 1, with gradient where it has one.
    embeddings: (B, D) projected queries, in the graph.
    targets: (B, D) projections of the other view, no gradient (alignment).
    features: (B, G) pooled backbone features of the queries, no gradient needed (spread, rank).
    metrics: figures to log beside the loss, scalars without gradient.
    shared: (B, ...) what all terms act on, in the graph: their gradient norms are taken here. None: the embeddings.
    """

    loss: Float[Tensor, ""]
    terms: Mapping[str, Tensor]
    embeddings: Float[Tensor, "batch width"]
    targets: Float[Tensor, "batch width"]
    features: Float[Tensor, "batch features"]
    metrics: Mapping[str, Tensor | float] = field(default_factory=dict)
    shared: Float[Tensor, "batch ..."] | None = None
