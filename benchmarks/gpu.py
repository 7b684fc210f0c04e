"""Training on a GPU: steps of five methods, their share of what the device can compute, and runs that read photos.

    python benchmarks/gpu.py [--quick] [--json FILE]

Steps: ResNet-50 and ViT-S/16, views of 224 pixels, MoCo v2, MLS, S2R2 (4 views), UniVIP and MSVQ in bf16, on 256 images
and on the most that fit (doubled until the device's memory is full): from the loader's pinned uint8 batch to the moved
teacher, ten steps a turn, each given to the device before the last one's figures are read, as a run does it. Their
arithmetic is that of the encoder passes they are documented with (`Method.passes`: forward 1, back 2), so of the
backbones alone, and the peak beside it a product of two bf16 matrices of 8,192 rows on the same device in the same run.
MoCo v2 is timed compiled as well (`engine.compile`).

Runs: `scenewise pretrain` with MoCo v2 on generated scenes of 640 x 427 pixels saved as JPEG: images a second and the
share of the time spent waiting for data, of each epoch but the first. Beside it, where it is installed, LightlySSL:
its transform, heads and loss with a memory bank, in a loop of ours over torch's loader, with the same backbone, batch,
precision and loader processes.

Wall clock. A group is printed when it is done. Without a CUDA device all of it is done on tiny sizes, to see that it
works: no figure of that means anything.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from files import write_photos
from PIL import Image
from rows import Row, row, table, take_turns, write
from step import in_a_row, step_of, training
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

import scenewise
from scenewise.backbones import create_backbone
from scenewise.engine.display import Quiet
from scenewise.engine.environment import describe
from scenewise.engine.machine import choose_precision, choose_workers, computing

METHODS = ("mocov2", "mls", "s2r2", "univip", "msvq")
PEAK, LIGHTLY = "bf16 matrix product", "LightlySSL"
GOAL = "0.02 at most"
Measured = tuple[list[float], float, float]  # images a second by turns, passes an image, memory in GB


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of everything. matrix: side; steps: of a turn; photos: files of the runs, read `epochs` times."""

    backbones: tuple[str, ...] = ("resnet50", "vit_small_patch16_224")
    size: int = 224
    images: int = 256
    most: int = 4096
    matrix: int = 8192
    steps: int = 10
    rounds: int = 3
    photos: int = 8192
    epochs: int = 4
    compiled: tuple[bool, ...] = (False, True)


QUICK = Sizes(steps=5, rounds=1, photos=4096, epochs=3, compiled=(False,))
TINY = Sizes(
    backbones=("test_resnet",),
    size=32,
    images=8,
    most=16,
    matrix=64,
    steps=2,
    rounds=1,
    photos=16,
    epochs=2,
    compiled=(False,),
)


def peak(device: str, sizes: Sizes) -> list[float]:
    """Return the TFLOP/s of a product of two square matrices of random values in bf16, turn by turn."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    first, second = (torch.randn(sizes.matrix, sizes.matrix, device=device, dtype=dtype) for _ in range(2))

    work = {PEAK: partial(in_a_row, device, lambda: first @ second, sizes.steps)}
    turns = take_turns(work, rounds=sizes.rounds, clock=time.perf_counter)[PEAK]
    return [2 * sizes.matrix**3 * sizes.steps / seconds / 1e12 for seconds in turns]


def operations(backbone: str, size: int) -> int:
    """Return the floating-point operations of one view's way forward: two for a multiplication and its sum."""
    network = create_backbone(backbone, seed=0, size=size).eval()
    # the plain form of attention: the others' operations are not counted on a CPU
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        network(torch.zeros(1, 3, size, size))
    return int(counter.get_total_flops())


def steps(device: str, sizes: Sizes, method: str, backbone: str, images: int, *, compiled: bool = False) -> Measured:
    """Return images a second turn by turn, the passes an image, and the memory in GB that torch held at most."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    run = training(device, method=method, backbone=backbone, size=sizes.size, images=images, compiled=compiled)
    with run as (loop, batch):
        work = {method: partial(in_a_row, device, step_of(loop, batch), sizes.steps)}
        turns = take_turns(work, rounds=sizes.rounds, clock=time.perf_counter)[method]
        passes = loop.method.passes(loop.method.config)
    held = torch.cuda.max_memory_reserved() / 1e9 if device == "cuda" else 0.0
    return [images * sizes.steps / seconds for seconds in turns], passes, held


def fitting(measure: Callable[[int], Measured], first: int, most: int) -> Iterator[tuple[int, Measured]]:
    """Yield a number of images and what was measured of it: of the first, and of the largest doubling that fits."""
    yield first, measure(first)
    largest = None
    with suppress(torch.OutOfMemoryError):
        for images in itertools.takewhile(lambda number: number <= most, (first << n for n in itertools.count(1))):
            largest = images, measure(images)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if largest is not None:
        yield largest


def step_rows(device: str, sizes: Sizes) -> Iterator[list[Row]]:
    """Yield the rows of each backbone and method."""
    peaks = peak(device, sizes)
    yield [row(f"{device}: {sizes.matrix} x {sizes.matrix}", PEAK, peaks, unit="TFLOP/s")]
    for backbone, method in itertools.product(sizes.backbones, METHODS):
        one_way = operations(backbone, sizes.size)
        for compiled in sizes.compiled if method == "mocov2" else (False,):
            measure = partial(steps, device, sizes, method, backbone, compiled=compiled)
            for images, (rates, passes, held) in fitting(
                measure, sizes.images, sizes.images if compiled else sizes.most
            ):
                done = [rate * passes * one_way / 1e12 for rate in rates]
                group = f"{method} on {device}: {backbone}, {sizes.size} px, {images} images" + compiled * ", compiled"
                yield [
                    row(group, "steps", rates, unit="images/s"),
                    row(group, "  of its passes", done, unit="TFLOP/s", base=peaks, compared=PEAK),
                    row(group, "  memory", [held], unit="GB"),
                ]


def ours(folder: Path, device: str, sizes: Sizes, backbone: str) -> tuple[list[float], list[float]]:
    """Return images a second and the share of waiting, of each epoch of a run but the first."""
    with tempfile.TemporaryDirectory() as out:
        scenewise.pretrain(
            folder,
            out=Path(out) / "run",
            method="mocov2",
            backbone=backbone,
            size=sizes.size,
            epochs=sizes.epochs,
            batch_size=sizes.images,
            device=device,
            display=Quiet(),
        )
        lines = map(json.loads, (Path(out) / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        epochs = [line for line in lines if "images_per_second" in line][1:]
    return [line["images_per_second"] for line in epochs], [line["data_wait"] for line in epochs]


class Photos(Dataset[Any]):
    """The folder as LightlySSL's transform takes it: two views of an opened photo."""

    def __init__(self, folder: Path, transform: Callable[[Image.Image], Any]) -> None:
        self.files, self.transform = sorted(folder.rglob("*.jpg")), transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        with Image.open(self.files[index]) as photo:
            first, second = self.transform(photo.convert("RGB"))
        return first, second


def lightly(folder: Path, device: str, sizes: Sizes, backbone: str) -> list[float]:
    """Return images a second of MoCo v2 made of LightlySSL's parts, of each epoch but the first."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import MoCoProjectionHead
    from lightly.models.utils import deactivate_requires_grad, update_momentum
    from lightly.transforms import MoCoV2Transform

    precision = choose_precision("auto" if device == "cuda" else "32", device)
    rates = []
    with computing(device, precision):
        network = create_backbone(backbone, seed=0, size=sizes.size)
        online = nn.Sequential(network, MoCoProjectionHead(network.width, network.width, 128))
        online = online.to(device, memory_format=torch.channels_last)
        teacher = copy.deepcopy(online)
        deactivate_requires_grad(teacher)
        criterion = NTXentLoss(temperature=0.2, memory_bank_size=(4096, 128)).to(device)
        optimiser = torch.optim.SGD(online.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4)
        loader = DataLoader(
            Photos(folder, MoCoV2Transform(input_size=sizes.size)),
            batch_size=sizes.images,
            shuffle=True,
            drop_last=True,
            num_workers=choose_workers(None),
            persistent_workers=True,
            pin_memory=device == "cuda",
        )
        for _ in range(sizes.epochs):
            began = time.perf_counter()
            for views in loader:
                query, key = (view.to(device, memory_format=torch.channels_last, non_blocking=True) for view in views)
                update_momentum(online, teacher, 0.999)
                with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
                    found = online(query)
                    with torch.no_grad():
                        wanted = teacher(key)
                loss = criterion(found.float(), wanted.float())
                loss.backward()
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            if device == "cuda":
                torch.cuda.synchronize()
            rates.append(len(loader) * sizes.images / (time.perf_counter() - began))
    return rates[1:]


def run_rows(device: str, sizes: Sizes) -> Iterator[list[Row]]:
    """Yield the rows of the runs that read photos, for each backbone."""
    beside = importlib.util.find_spec("lightly") is not None
    if not beside:
        print("LightlySSL is not installed and left out; pip install 'scenewise[dev]' has it", file=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "photos"
        write_photos(folder, sizes.photos)
        for backbone in sizes.backbones:
            group = f"runs on {device}: mocov2, {backbone}, {sizes.size} px, {sizes.images} images"
            group += f", {choose_workers(None)} loaders"
            rates, waits = ours(folder, device, sizes, backbone)
            theirs = lightly(folder, device, sizes, backbone) if beside else None
            found = [
                row(group, "scenewise pretrain", rates, unit="images/s", base=theirs, compared=beside * LIGHTLY),
                row(group, "  of the time: waiting for data", waits, unit="", goal=GOAL),
            ]
            yield found if theirs is None else [*found, row(group, LIGHTLY, theirs, unit="images/s")]


def main() -> None:
    """Measure, printing each group when it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps and photos: for a first look")
    parser.add_argument("--only", choices=("steps", "runs"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = (QUICK if options.quick else Sizes()) if device == "cuda" else TINY
    if sizes is TINY:
        print("no CUDA device: tiny sizes, to see that it works; no figure below means anything", file=sys.stderr)
    wanted = {"steps": step_rows, "runs": run_rows}
    rows: list[Row] = []
    for name, groups in wanted.items():
        if options.only in (None, name):
            for group in groups(device, sizes):
                print(table(group), flush=True)
                rows += group
                if options.json:  # what is known so far: the time on a device may end
                    write(options.json, rows, **describe(torch.device(device)), tiny=sizes is TINY)


if __name__ == "__main__":
    main()
