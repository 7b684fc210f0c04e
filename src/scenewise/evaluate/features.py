"""Frozen features of a source's images: the test transform, the backbone in eval mode, kept in the cache folder."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from scenewise.backbones import Backbone
from scenewise.errors import ImageError, UserError
from scenewise.evaluate.feature_cache import Features, cache_file, content_digest, load, store
from scenewise.hardware import exact_float32
from scenewise.sources.base import Progress, Source
from scenewise.types import IMAGENET_MEAN, IMAGENET_STD, Colour, Skip
from scenewise.views.collate import normalise
from scenewise.views.opencv import use_one_thread
from scenewise.views.pipeline import test_view

VERSION = 4  # raised whenever the same backbone and source would give other features


@dataclass(frozen=True, slots=True)
class Look:
    """How an image is turned into features.

    square: the whole photo is resized to size x size, its aspect not kept, instead of the centre of the test view.
    grid: 0 for the backbone's pooled features; n for its last map averaged over n x n overlapping windows, flattened.
    """

    square: bool = False
    grid: int = 0


def extract_features(
    backbone: nn.Module,
    source: Source,
    *,
    size: int,
    indices: Sequence[int] | Int64[np.ndarray, " chosen"] | None = None,
    look: Look | None = None,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
    workers: int = 0,
    progress: Progress | None = None,
    cache_key: str | None = None,
    mean: Colour = IMAGENET_MEAN,
    std: Colour = IMAGENET_STD,
) -> Features:
    """Return the features of a source's images in float32, in the order of `indices` (all of them by default).

    The backbone maps (B, 3, size, size) images, normalised with `mean` and `std` (of RGB values 0..1), to (B, G); it is
    moved to `device`, run in eval mode without gradient, and left in the mode it was in. Images that cannot be read are
    left out and named in `skipped`. `cache_key` (see `weights_digest`) names the backbone; with it the result is kept
    in the cache folder under a digest of that, the source's fingerprint, the images, the transform and the versions.
    UserError for a grid of a backbone without a feature map.
    """
    look = look or Look()
    wanted = np.arange(len(source)) if indices is None else np.asarray(indices, dtype=np.int64)
    file = None
    if cache_key is not None:
        parts = (cache_key, source.fingerprint, wanted.tobytes(), size, look, mean, std, VERSION, torch.__version__)
        file = cache_file(*parts, torch.device(device).type)
        if (kept := load(file)) is not None:
            return kept
    batches = list(
        stream_features(
            backbone,
            source,
            size=size,
            indices=wanted,
            look=look,
            batch_size=batch_size,
            device=device,
            workers=workers,
            progress=progress,
            mean=mean,
            std=std,
        )
    )
    found = Features(
        np.concatenate([batch.features for batch in batches if len(batch.index)]),
        np.concatenate([batch.index for batch in batches]),
        np.concatenate([batch.digest for batch in batches]),
        tuple(skip for batch in batches for skip in batch.skipped),
    )
    return found if file is None else store(file, found)


def stream_features(
    backbone: nn.Module,
    source: Source,
    *,
    size: int,
    indices: Int64[np.ndarray, " chosen"],
    look: Look | None = None,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
    workers: int = 0,
    progress: Progress | None = None,
    mean: Colour = IMAGENET_MEAN,
    std: Colour = IMAGENET_STD,
) -> Iterator[Features]:
    """Yield what `extract_features` returns, batch by batch; UserError at the end where no image could be read."""
    look = look or Look()
    use_one_thread()  # before workers are forked: OpenCV's own threads do not survive that
    loader = DataLoader(
        _Views(source, indices, size, square=look.square),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # else the loader draws from torch's global state
    )
    network = _network(backbone, look)
    with exact_float32():
        yield from _run(backbone, network, loader, torch.device(device), len(indices), progress, mean=mean, std=std)


class _Views(Dataset[tuple[int, np.ndarray | Skip]]):
    """The test view of each wanted image, or why there is none."""

    def __init__(self, source: Source, wanted: Int64[np.ndarray, " images"], size: int, *, square: bool) -> None:
        self.source, self.wanted, self.size, self.square = source, wanted, size, square

    def __len__(self) -> int:
        return len(self.wanted)

    def __getitem__(self, place: int) -> tuple[int, np.ndarray | Skip]:
        index = int(self.wanted[place])
        record = self.source[index]
        try:
            return index, test_view(record, size=self.size, square=self.square)
        except ImageError as error:
            return index, Skip(index, record.key, str(error))


@dataclass(frozen=True, slots=True)
class _Batch:
    images: Tensor  # (B, 3, S, S) uint8
    index: list[int]
    digest: list[int]
    skipped: list[Skip]


def _collate(samples: list[tuple[int, np.ndarray | Skip]]) -> _Batch:
    good = [(index, view) for index, view in samples if isinstance(view, np.ndarray)]
    pixels = np.stack([view for _, view in good]) if good else np.empty((0, 1, 1, 3), np.uint8)
    return _Batch(
        images=torch.from_numpy(pixels).permute(0, 3, 1, 2),
        index=[index for index, _ in good],
        digest=[content_digest(view) for _, view in good],
        skipped=[view for _, view in samples if isinstance(view, Skip)],
    )


def start_worker(worker: int) -> None:
    """Keep a loader process to one core, as the workers share them, and leave the interrupt to the main process."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def _network(backbone: nn.Module, look: Look) -> Callable[[Tensor], Tensor]:
    if look.grid == 0:
        return backbone
    if not isinstance(backbone, Backbone):
        raise UserError("backbone: features of a grid need a backbone with a feature map; use scenewise.load_backbone")
    return lambda images: windows(backbone.feature_map(images), look.grid)


def windows(maps: Float[Tensor, "batch channels rows columns"], grid: int) -> Float[Tensor, "batch features"]:
    """Return the means (B, C * n * n) of a map over n x n windows one apart: 6 x 6 of a 7 x 7 map for n = 2 (FAIR).

    A map of fewer than n rows or columns is averaged over equal parts instead. In float32.
    """
    rows, columns = maps.shape[-2:]
    lifted = maps if maps.dtype == torch.float64 else maps.float()
    if min(rows, columns) < grid:
        return F.adaptive_avg_pool2d(lifted, grid).flatten(1)
    return F.avg_pool2d(lifted, (rows - grid + 1, columns - grid + 1), stride=1).flatten(1)


def _run(
    backbone: nn.Module,
    network: Callable[[Tensor], Tensor],
    loader: DataLoader[tuple[int, np.ndarray | Skip]],
    device: torch.device,
    images: int,
    progress: Progress | None,
    *,
    mean: Colour,
    std: Colour,
) -> Iterator[Features]:
    training = backbone.training
    backbone.to(device).eval()
    batches: Iterator[_Batch] = iter(loader)
    done, read, reason = 0, 0, ""
    try:
        for batch in batches:
            rows = np.empty((0, 0), np.float32)
            if batch.index:
                inputs = normalise(batch.images.to(device, non_blocking=True), mean=mean, std=std)
                with torch.no_grad():
                    rows = network(inputs).float().cpu().numpy()
            index, digest = np.array(batch.index, np.int64), np.array(batch.digest, np.uint64)
            yield Features(rows, index, digest, tuple(batch.skipped))
            done, read = done + len(batch.index) + len(batch.skipped), read + len(batch.index)
            reason = reason or "".join(f"; {skip.reason}" for skip in batch.skipped[:1])
            if progress is not None:
                progress("features", done, images)
    finally:
        backbone.train(training)
    if not read:
        raise UserError(f"data: none of {images} images could be read{reason}")
