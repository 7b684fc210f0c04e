"""Two MoCo v2 views of a JPEG, one core: ours, LightlySSL's, torchvision v2's, and decoding alone.

    python benchmarks/views.py [--quick] [--json FILE]

From 640 x 427 pixels, as COCO's photos are, and from 12 megapixels, as cameras write them. "to be finished on the
device" is what the loader does when a GPU colours and blurs. LightlySSL takes part where it is installed. The photos
are generated scenes, enlarged and saved as JPEG of quality 90.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import torch
from PIL import Image
from rows import Row, compare, rates, run_alone, take_turns
from torchvision.transforms import v2

from scenewise.sources import open_source
from scenewise.types import Record, Size
from scenewise.views.pipeline import draw_views, make_views
from scenewise.views.policies import policy_class
from scenewise.views.slots import Slot, scale_slots

PHOTO, CAMERA = (427, 640), (3000, 4000)
OURS, DEVICE, LIGHTLY, ALONE = "scenewise", "scenewise, to be finished on the device", "LightlySSL", "decoding alone"
Make = Callable[[int, bytes], object]


def photos(count: int, size: Size = PHOTO) -> list[bytes]:
    """Return the encoded photos."""
    source = open_source(f"synthetic:{count}")
    encoded = []
    for index in range(count):
        pixels = cv2.resize(np.asarray(source[index].read()), size[::-1], interpolation=cv2.INTER_CUBIC)
        encoded.append(cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    return encoded


def contestants(view: int, size: Size = PHOTO) -> dict[str, Make]:
    """Return what is timed, by name: a function of (number, encoded photo)."""
    slots = scale_slots({"query": Slot(augmentation="moco"), "key": Slot(augmentation="moco")}, view)
    scene = policy_class("scene")()
    blur = v2.GaussianBlur(2 * (23 * view // 448) + 1, (0.1 * view / 224, 2.0 * view / 224))
    moco = v2.Compose(
        [
            v2.RandomResizedCrop(view, scale=(0.2, 1.0), antialias=True),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([blur], p=0.5),
            v2.RandomHorizontalFlip(),
        ]
    )

    def ours(index: int, data: bytes, *, finished: bool) -> object:
        record = Record(index, str(index), size, 1, lambda: data)
        if not finished:
            draw_views(slots, seed=0, epoch=0, index=index)
        return make_views(record, policy=scene, slots=slots, seed=0, epoch=0, finished=finished)

    def opened(data: bytes) -> Image.Image:
        return Image.open(io.BytesIO(data)).convert("RGB")

    def tensors(index: int, data: bytes) -> object:
        del index
        image = torch.from_numpy(np.array(opened(data))).permute(2, 0, 1)
        return moco(image), moco(image)

    def pillow(index: int, data: bytes) -> object:
        del index
        image = opened(data)
        return moco(image), moco(image)

    def alone(index: int, data: bytes) -> object:
        del index
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)

    timed: dict[str, Make] = {OURS: partial(ours, finished=True), DEVICE: partial(ours, finished=False)}
    if importlib.util.find_spec("lightly"):
        from lightly.transforms import MoCoV2Transform

        transform = MoCoV2Transform(input_size=view)
        timed[LIGHTLY] = lambda index, data: transform(opened(data))
    return {**timed, "torchvision v2, tensors": tensors, "torchvision v2, PIL": pillow, ALONE: alone}


def rows(*, quick: bool = False) -> list[Row]:
    """Return images a second of each, and how many times LightlySSL's and decoding's that is."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    found = []
    for size, views, images in ((PHOTO, (224, 96), 8 if quick else 32), (CAMERA, (224,), 1 if quick else 4)):
        data = photos(images, size)
        for view in views:
            group = f"two views of {view} px from {size[1]} x {size[0]}, one core"
            timed = contestants(view, size)
            work = {name: partial(_all, make, data) for name, make in timed.items()}
            figures = rates(take_turns(work, rounds=2 if quick else 7), images)
            goals = {OURS: "0.5" if size == PHOTO else ""}
            found += compare(group, figures, against=ALONE, unit="images/s", goals=goals)
            if LIGHTLY in figures:
                ours = {f"{name}, beside LightlySSL": figures[name] for name in (OURS, DEVICE)}
                goal = "6" if size == PHOTO else "5"
                both = {**ours, LIGHTLY: figures[LIGHTLY]}
                found += compare(group, both, against=LIGHTLY, unit="images/s", goals=dict.fromkeys(ours, goal))[:-1]
    return found


def _all(make: Make, data: list[bytes]) -> None:
    for index, photo in enumerate(data):
        make(index, photo)


if __name__ == "__main__":
    run_alone(rows, __doc__)
