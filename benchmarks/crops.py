"""The many-crop sets of UniVIP and S2R2 from a 640 x 427 JPEG to 224-pixel views, beside decoding it alone.

    python benchmarks/crops.py [--quick] [--json FILE]

MoCo v2's two views stand beside them. UniVIP sees two overlapping crops and twice four objects (cut by the boxes that
the scenes are labelled with), S2R2 four views, or two and six small ones. Images a second of one core, and pixels of
views: a set of more views costs more, a pixel should not. Decoding alone is what no way of cutting can pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import cv2
import numpy as np
import torch
from rows import Row, compare, rates, run_alone, take_turns

from scenewise.methods import method_class
from scenewise.sources import open_source
from scenewise.sources.base import HasBoxes
from scenewise.types import Record
from scenewise.views.pipeline import make_views
from scenewise.views.policies import policy_class
from scenewise.views.slots import Slot, scale_slots

SIZE = (427, 640)
ALONE = "decoding alone"
Photo = tuple[bytes, np.ndarray]  # the JPEG, and its boxes (n, 4) in its pixels


def photos(count: int) -> list[Photo]:
    """Return generated scenes, enlarged and saved as JPEG of quality 90, with their objects' boxes."""
    source = open_source(f"synthetic:{count}")
    assert isinstance(source, HasBoxes)
    found = []
    for index in range(count):
        pixels = np.asarray(source[index].read())
        enlarged = cv2.resize(pixels, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
        data = cv2.imencode(".jpg", enlarged[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        factors = np.array([SIZE[1] / pixels.shape[1], SIZE[0] / pixels.shape[0]] * 2, np.float32)
        found.append((data, source.boxes(index)[0] * factors))
    return found


def slots_of(name: str, **settings: object) -> dict[str, Slot]:
    """Return what a method wants to see at 224 pixels."""
    kind = method_class(name)
    return scale_slots(kind.slots(kind.Config(**settings)), 224)


def cut(data: list[Photo], policy: str, slots: Mapping[str, Slot]) -> None:
    """Make the views of every photo."""
    cutter = policy_class(policy)()
    for index, (encoded, boxes) in enumerate(data):
        record = Record(index, str(index), SIZE, 1, lambda encoded=encoded: encoded)
        make_views(record, policy=cutter, slots=slots, seed=0, epoch=0, proposals=boxes)


def decode_alone(data: list[Photo]) -> None:
    """Decode every photo at full size."""
    for encoded, _ in data:
        cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)


def rows(*, quick: bool) -> list[Row]:
    """Return the rows of this benchmark."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    data = photos(8 if quick else 32)
    sets = {
        "MoCo v2: 2 views": ("scene", slots_of("mocov2")),
        "UniVIP: 2 views, 8 objects": ("overlap", slots_of("univip")),
        "S2R2: 4 views": ("scene", slots_of("s2r2", views=4, small_views=0)),
        "S2R2: 2 views, 6 small": ("scene", slots_of("s2r2", views=2, small_views=6)),
    }
    work: dict[str, Callable[[], object]] = {ALONE: partial(decode_alone, data)}
    work |= {name: partial(cut, data, policy, slots) for name, (policy, slots) in sets.items()}
    seconds = take_turns(work, rounds=3 if quick else 7)
    images = compare("views of a 640 x 427 JPEG, one core", rates(seconds, len(data)), against=ALONE, unit="images/s")
    pixels = {name: sum(slot.count * slot.size**2 for slot in slots.values()) for name, (_, slots) in sets.items()}
    megapixels = {name: rates({name: seconds[name]}, len(data))[name] for name in sets}
    megapixels = {name: [rate * pixels[name] / 1e6 for rate in values] for name, values in megapixels.items()}
    return images + compare("the same in pixels of views", megapixels, against="MoCo v2: 2 views", unit="megapixels/s")


if __name__ == "__main__":
    run_alone(rows, __doc__)
