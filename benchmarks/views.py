"""Two MoCo v2 views of a 640 x 427 JPEG, one core: ours, torchvision v2's, and decoding alone, interleaved in one run.

    python benchmarks/views.py [--images 40] [--rounds 7] [--json FILE]

Figures are medians over rounds of images per second, and ratios of medians: on a shared machine only those count.
The photos are generated scenes, enlarged and saved as JPEG of quality 90.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from scenewise.sources import open_source
from scenewise.types import Record
from scenewise.views.pipeline import make_views
from scenewise.views.policies import policy_class
from scenewise.views.slots import Slot

SIZE = (427, 640)


def photos(count: int) -> list[bytes]:
    """Return the encoded photos."""
    source = open_source(f"synthetic:{count}")
    encoded = []
    for index in range(count):
        pixels = cv2.resize(np.asarray(source[index].read()), SIZE[::-1], interpolation=cv2.INTER_CUBIC)
        encoded.append(cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    return encoded


def contestants(size: int) -> dict[str, Callable[[int, bytes], object]]:
    """Return what is timed, by name: a function of (number, encoded photo)."""
    slots = {"query": Slot(augmentation="moco", size=size), "key": Slot(augmentation="moco", size=size)}
    scene = policy_class("scene")()
    moco = v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.2, 1.0), antialias=True),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(23, (0.1, 2.0))], p=0.5),
            v2.RandomHorizontalFlip(),
        ]
    )

    def ours(index: int, data: bytes) -> object:
        record = Record(index, str(index), SIZE, 1, lambda: data)
        return make_views(record, policy=scene, slots=slots, seed=0, epoch=0)

    def torchvision_tensor(index: int, data: bytes) -> object:
        del index
        image = torch.from_numpy(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).copy()).permute(2, 0, 1)
        return moco(image), moco(image)

    def torchvision_pil(index: int, data: bytes) -> object:
        del index
        image = Image.open(io.BytesIO(data)).convert("RGB")
        return moco(image), moco(image)

    def decode_alone(index: int, data: bytes) -> object:
        del index
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)

    return {
        "scenewise": ours,
        "torchvision v2, tensors": torchvision_tensor,
        "torchvision v2, PIL": torchvision_pil,
        "decoding alone": decode_alone,
    }


def measure(size: int, images: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return name -> median, lowest and highest images per second."""
    data, timed = photos(images), contestants(size)
    rates: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(rounds + 1):
        for name, function in timed.items():
            start = time.perf_counter()
            for index, photo in enumerate(data):
                function(index, photo)
            if turn:  # the first round warms up
                rates[name].append(images / (time.perf_counter() - start))
    return {
        name: {"median": statistics.median(values), "low": min(values), "high": max(values)}
        for name, values in rates.items()
    }


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    results = {str(size): measure(size, options.images, options.rounds) for size in (224, 96)}
    for size, figures in results.items():
        print(f"two views of {size} px from a 640 x 427 JPEG, one core")
        for name, figure in figures.items():
            ratio = figures["scenewise"]["median"] / figure["median"]
            print(
                f"  {name:26} {figure['median']:7.0f} images/s ({figure['low']:.0f} to {figure['high']:.0f});"
                f" scenewise is {ratio:.2f} x"
            )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
