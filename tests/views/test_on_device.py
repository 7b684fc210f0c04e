"""The batch on the device against the single view in OpenCV, which is its oracle."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from scenewise.views.augmentations import AUGMENTATIONS
from scenewise.views.collate import normalise
from scenewise.views.on_device import COLUMNS, apply_to_batch, as_numbers
from scenewise.views.photometric import CHANCES, JITTER, Photometry, apply, crop_and_resize, draw


def both(views: list[np.ndarray], wanted: list[Photometry]) -> tuple[np.ndarray, np.ndarray]:
    """Return what the CPU and what the batch makes of the views, (N, H, W, 3) as signed integers."""
    oracle = np.stack([apply(view, photometry) for view, photometry in zip(views, wanted, strict=True)])
    batch = torch.from_numpy(np.stack(views)[None]).permute(0, 1, 4, 2, 3)
    numbers = torch.from_numpy(np.stack([as_numbers(photometry) for photometry in wanted])[None])
    found = apply_to_batch(batch, numbers)
    return oracle.astype(int), found[0].permute(0, 2, 3, 1).numpy().astype(int)


@pytest.fixture(scope="module")
def squares(scene: np.ndarray) -> list[np.ndarray]:
    boxes = [(0, 0, 400, 400), (100, 20, 164, 84), (300, 100, 640, 427), (50, 60, 90, 95)]
    return [crop_and_resize(scene, np.array(box, np.float32), size=48) for box in boxes]


@pytest.mark.parametrize("name", JITTER)
def test_each_colour_operation_is_opencvs(squares: list[np.ndarray], name: str) -> None:
    for factor in (-0.2, -0.07, 0.1, 0.5) if name == "hue" else (0.2, 0.7, 1.0, 1.6):
        oracle, found = both(squares, [Photometry(jitter=((name, factor),))] * 4)
        assert abs(found - oracle).max() <= (6 if name == "hue" else 1)  # one step of hue is 6 levels of 255
        assert (abs(found - oracle) <= 1).mean() >= 0.99


@pytest.mark.parametrize("sigma", [0.1, 0.4, 1.0, 1.9])
def test_blur_is_opencvs(squares: list[np.ndarray], sigma: float) -> None:
    oracle, found = both(squares, [Photometry(sigma=sigma)] * 4)
    assert abs(found - oracle).max() <= 1


def test_exact_operations_are_exact(squares: list[np.ndarray]) -> None:
    plain, mirrored = Photometry(), Photometry(flip=True)
    inverted, both_ways = Photometry(solarise=100), Photometry(flip=True, solarise=0)
    oracle, found = both(squares, [plain, mirrored, inverted, both_ways])
    assert np.array_equal(oracle, found)
    oracle, found = both(squares, [Photometry(grey=True)] * 4)
    assert abs(oracle - found).max() <= 1


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(sorted(AUGMENTATIONS)), seed=st.integers(0, 10**6), small=st.booleans())
def test_any_drawn_view_is_the_cpus(squares: list[np.ndarray], name: str, seed: int, small: bool) -> None:
    """95 of 100 values within a level, whatever was drawn and in whatever order, on pictures made to be hard."""
    chance = np.random.default_rng(seed)
    views = [view[:20, :20] if small else view for view in squares]
    scale = 20 / 224 if small else 1.0
    wanted = [draw(AUGMENTATIONS[name], chance.random(CHANCES), blur_scale=scale) for _ in views]
    oracle, found = both(views, wanted)
    apart = abs(found - oracle)
    apart = np.minimum(apart, 255 - apart) if any(each.solarise is not None for each in wanted) else apart
    assert (apart <= 1).mean() >= 0.95


def test_real_photos_are_the_cpus(photos: list[bytes]) -> None:
    chance = np.random.default_rng(0)
    views, wanted = [], []
    for data in photos:
        image = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        views.append(crop_and_resize(image, np.array([8, 8, 168, 168], np.float32), size=112))
        wanted.append(draw(AUGMENTATIONS["byol-second"], chance.random(CHANCES), blur_scale=0.5))
    oracle, found = both(views, wanted)
    assert (abs(found - oracle) <= 1).mean() >= 0.99


def test_the_batch_keeps_its_layout_and_its_input(squares: list[np.ndarray]) -> None:
    batch = torch.from_numpy(np.stack([squares, squares])).permute(0, 1, 4, 2, 3)
    before = batch.clone()
    wanted = draw(AUGMENTATIONS["simclr"], np.random.default_rng(1).random(CHANCES))
    numbers = torch.from_numpy(np.tile(as_numbers(wanted), (2, 4, 1)))
    found = apply_to_batch(batch, numbers)
    assert found.dtype == torch.uint8 and found.shape == batch.shape and found.stride() == batch.stride()
    assert torch.equal(batch, before)
    assert torch.equal(apply_to_batch(batch.contiguous(), numbers), found)
    assert numbers.shape[-1] == COLUMNS


def test_blur_reaches_over_the_border_of_a_tiny_view() -> None:
    view = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    oracle, found = both([view], [Photometry(sigma=2.0)])
    assert abs(oracle - found).max() <= 1


def test_a_view_does_not_depend_on_the_others_of_its_batch(squares: list[np.ndarray]) -> None:
    """Each operation is computed for the views that want it: together they are what each is alone."""
    chance = np.random.default_rng(2)
    wanted = [draw(AUGMENTATIONS[name], chance.random(CHANCES)) for name in AUGMENTATIONS for _ in range(4)]
    views = [squares[place % len(squares)] for place in range(len(wanted))]
    _, found = both(views, wanted)
    for place, (view, photometry) in enumerate(zip(views, wanted, strict=True)):
        assert np.array_equal(both([view], [photometry])[1][0], found[place]), photometry


def test_a_batch_that_wants_nothing_stays_as_it_is(squares: list[np.ndarray]) -> None:
    oracle, found = both(squares, [Photometry()] * 4)
    assert np.array_equal(oracle, found)


def test_nothing_waits_for_the_device(squares: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    """No value is read, and no constant copied over (`new_tensor` on a GPU waits for all that it was given)."""
    normalise(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))  # makes its constants, once
    chance = np.random.default_rng(3)
    wanted = [draw(AUGMENTATIONS["byol-second"], chance.random(CHANCES)) for _ in range(16)]
    numbers = torch.from_numpy(np.stack([as_numbers(each) for each in wanted])).view(2, 8, COLUMNS)
    monkeypatch.setattr(torch.Tensor, "new_tensor", None)
    monkeypatch.setattr(torch, "tensor", None)
    views = torch.empty(2, 8, 3, 16, 16, dtype=torch.uint8, device="meta")  # has no values
    found = apply_to_batch(views, numbers)
    assert found.shape == views.shape and found.dtype == torch.uint8
    normalise(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))


COMPILED = """
import functools
import numpy as np, torch
torch.compile = functools.partial(torch.compile, backend="eager", fullgraph=True)
torch._dynamo.config.error_on_recompile = True  # any number of views, of any size, is the same graph
from scenewise.views.augmentations import AUGMENTATIONS
from scenewise.views.on_device import apply_to_batch, as_numbers
from scenewise.views.photometric import JITTER, CHANCES, Photometry, draw

for count, size in ((16, 40), (20, 24), (2, 30), (1, 24), (3, 24)):
    chance = np.random.default_rng(size)
    wanted = [
        Photometry(
            flip=place % 3 == 0,
            jitter=tuple((JITTER[(place + turn) % 4], (0.1, 0.7)[(place + turn) % 4 < 3]) for turn in range(4)),
            grey=place % 3 == 1,
            sigma=(0.5, None, 1.3)[place % 3],
            solarise=(None, 100, 128)[place % 3],
        )
        for place in range(2 * count)
    ]
    numbers = torch.from_numpy(np.stack([as_numbers(each) for each in wanted])).view(2, count, -1)
    views = torch.from_numpy(chance.integers(0, 256, (2, count, 3, size, size), dtype=np.uint8))
    assert torch.equal(apply_to_batch(views, numbers, compiled=True), apply_to_batch(views, numbers))

# a small part a step: 1 view of an operation or 2 or 3, every length of blur; no more than torch's 8 graphs are made
torch._dynamo.config.error_on_recompile = False
torch._dynamo.config.fail_on_recompile_limit_hit = True
for step in range(40):
    wanted = [draw(AUGMENTATIONS["byol-second"], chance.random(CHANCES), blur_scale=2.0) for _ in range(8)]
    numbers = torch.from_numpy(np.stack([as_numbers(each) for each in wanted]))[None]
    views = torch.from_numpy(chance.integers(0, 256, (1, 8, 3, 24, 24), dtype=np.uint8))
    assert torch.equal(apply_to_batch(views, numbers, compiled=True), apply_to_batch(views, numbers))
"""


def test_what_is_compiled_is_one_graph_an_operation() -> None:
    """A graph break is an error here, and so are graphs for other numbers of views. Alone, without the type checks."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
