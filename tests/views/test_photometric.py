"""Every operation against torchvision v2's, on float images (no rounding of theirs in between), in grey levels."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as v2
import torchvision.transforms.v2.functional as tv
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from scenewise.views import photometric
from scenewise.views.augmentations import AUGMENTATIONS, Augmentation
from scenewise.views.photometric import CHANCES, Photometry, apply, crop_and_resize, draw


def to_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)


def to_array(image: Tensor) -> np.ndarray:
    if image.is_floating_point():
        image = (image * 255).round().clamp(0, 255).to(torch.uint8)
    return image.permute(1, 2, 0).numpy()


def differences(
    images: list[np.ndarray], ours: Callable[[np.ndarray], np.ndarray], theirs: Callable[[Tensor], Tensor]
) -> np.ndarray:
    """Ours minus torchvision's, in grey levels, all pixels of all images in a row; theirs sees floats in 0..1."""
    pairs = [(ours(image), to_array(theirs(to_tensor(image).float() / 255))) for image in images]
    assert all(a.shape == b.shape and a.dtype == b.dtype == np.uint8 for a, b in pairs)
    return np.concatenate([(a.astype(int) - b.astype(int)).ravel() for a, b in pairs])


# operation, factors, largest difference, largest mean absolute difference (grey levels)
COLOUR = [
    ("brightness", (0.2, 0.6, 1.4, 1.8), 1, 0.01),
    ("contrast", (0.2, 0.6, 1.4, 1.8), 1, 0.4),  # the mean is rounded, as in Pillow
    ("saturation", (0.2, 0.6, 1.4, 1.8), 1, 0.25),
    ("hue", (-0.2, -0.1, 0.03, 0.1, 0.2, 0.5), 13, 1.0),  # hue and saturation have 256 steps, as in Pillow
]


@pytest.mark.parametrize(("name", "factors", "largest", "mean"), COLOUR)
def test_colour_operations_are_torchvisions(
    textures: list[np.ndarray], name: str, factors: tuple[float, ...], largest: int, mean: float
) -> None:
    for factor in factors:
        found = differences(
            textures,
            lambda image, factor=factor: apply(image, Photometry(jitter=((name, factor),))),
            lambda image, factor=factor: getattr(tv, f"adjust_{name}")(image, factor),
        )
        assert abs(found).max() <= largest
        assert abs(found).mean() <= mean
        assert abs(found.mean()) <= 0.3


def test_hue_is_nearer_to_the_exact_one_than_pillows(textures: list[np.ndarray]) -> None:
    for image in textures:
        exact = to_array(tv.adjust_hue(to_tensor(image).float() / 255, 0.1)).astype(int)
        pillow = np.asarray(tv.adjust_hue(Image.fromarray(image), 0.1)).astype(int)
        assert abs(photometric.hue(image, 0.1) - exact).mean() < abs(pillow - exact).mean()


def test_grey_and_solarise_are_torchvisions(textures: list[np.ndarray]) -> None:
    grey = differences(textures, lambda x: apply(x, Photometry(grey=True)), lambda x: tv.rgb_to_grayscale(x, 3))
    assert abs(grey).max() <= 1
    assert abs(grey).mean() <= 0.02
    for threshold in (0, 128, 200):
        solarised = [apply(image, Photometry(solarise=threshold)) for image in textures]
        theirs = [to_array(tv.solarize(to_tensor(image), threshold)) for image in textures]
        assert all(np.array_equal(a, b) for a, b in zip(solarised, theirs, strict=True))


@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.3, 0.5, 1.0, 2.0])
def test_blur_is_torchvisions_with_byols_kernel(textures: list[np.ndarray], sigma: float) -> None:
    found = differences(
        textures, lambda x: apply(x, Photometry(sigma=sigma)), lambda x: tv.gaussian_blur(x, [23, 23], [sigma, sigma])
    )
    assert abs(found).max() <= 1
    assert abs(found).mean() <= 0.3


# box, size; shrinking, enlarging, one side each way
CROPS = [
    ((10, 20, 90, 110), 224),
    ((0, 0, 640, 427), 224),
    ((100, 50, 420, 380), 224),
    ((5, 7, 205, 220), 96),
    ((3, 3, 600, 60), 96),
    ((3, 3, 60, 400), 224),
    ((200, 100, 424, 324), 224),
]


@pytest.mark.parametrize(("box", "size"), CROPS)
def test_resized_crop_is_torchvisions(scene: np.ndarray, box: tuple[int, int, int, int], size: int) -> None:
    left, top, right, bottom = box
    found = differences(
        [scene],
        lambda x: crop_and_resize(x, np.array(box, np.float32), size=size),
        lambda x: tv.resized_crop(x, top, left, bottom - top, right - left, [size, size], antialias=True),
    )
    assert abs(found).max() <= 1
    assert abs(found).mean() <= 0.3


def test_operations_on_real_photos_are_torchvisions(photos: list[bytes]) -> None:
    views = []
    for data in photos:
        image = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        views.append(crop_and_resize(image, np.array([8, 8, 168, 168], np.float32), size=112))
    limits = {"brightness": (1, 0.01), "contrast": (1, 0.35), "saturation": (1, 0.25), "hue": (13, 0.4)}
    for name, (largest, mean) in limits.items():
        for factor in (-0.1, 0.1) if name == "hue" else (0.6, 1.4):
            found = differences(
                views,
                lambda x, name=name, factor=factor: apply(x, Photometry(jitter=((name, factor),))),
                lambda x, name=name, factor=factor: getattr(tv, f"adjust_{name}")(x, factor),
            )
            assert abs(found).max() <= largest
            assert abs(found).mean() <= mean
    blurred = differences(
        views, lambda x: photometric.gaussian_blur(x, 1.0), lambda x: tv.gaussian_blur(x, [23, 23], [1.0, 1.0])
    )
    assert abs(blurred).max() <= 1
    grey = differences(views, lambda x: apply(x, Photometry(grey=True)), lambda x: tv.rgb_to_grayscale(x, 3))
    assert abs(grey).max() <= 1
    cropped = differences(
        views,
        lambda x: crop_and_resize(x, np.array([4, 9, 110, 100], np.float32), size=64),
        lambda x: tv.resized_crop(x, 9, 4, 91, 106, [64, 64], antialias=True),
    )
    assert abs(cropped).max() <= 1


def test_order_of_the_stages(textures: list[np.ndarray]) -> None:
    image = textures[0]
    everything = Photometry(flip=True, jitter=(("contrast", 1.5), ("hue", 0.1)), grey=True, sigma=1.0, solarise=128)
    expected = photometric.hue(photometric.contrast(image[:, ::-1].copy(), 1.5), 0.1)
    expected = photometric.gaussian_blur(apply(expected, Photometry(grey=True)), 1.0)
    assert np.array_equal(apply(image, everything), photometric.solarise(expected, 128))
    assert np.array_equal(apply(image, Photometry(flip=True)), image[:, ::-1])
    assert np.array_equal(apply(image, Photometry()), image)


def test_operations_leave_their_input_alone(textures: list[np.ndarray]) -> None:
    image = textures[1].copy()
    for name, _, _, _ in COLOUR:
        apply(image, Photometry(jitter=((name, 0.3),)))
    apply(image, Photometry(flip=True, grey=True, sigma=1.0, solarise=100))
    assert np.array_equal(image, textures[1])


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_drawn_numbers_have_the_papers_distributions(name: str) -> None:
    wanted, draws = AUGMENTATIONS[name], 4000
    generator = np.random.default_rng(0)
    drawn = [draw(wanted, generator.random(CHANCES)) for _ in range(draws)]

    def close(count: int, probability: float) -> bool:  # 4.5 standard deviations
        return abs(count / draws - probability) <= 4.5 * (probability * (1 - probability) / draws) ** 0.5

    assert close(sum(d.flip for d in drawn), wanted.flip)
    assert close(sum(d.grey for d in drawn), wanted.grey)
    assert close(sum(bool(d.jitter) for d in drawn), wanted.jitter)
    assert close(sum(d.sigma is not None for d in drawn), wanted.blur)
    assert close(sum(d.solarise is not None for d in drawn), wanted.solarise)
    assert {d.solarise for d in drawn} <= {None, 128}
    sigmas = np.array([d.sigma for d in drawn if d.sigma is not None])
    if wanted.blur:
        assert sigmas.min() >= 0.1 and sigmas.max() <= 2.0
        assert sigmas.mean() == pytest.approx(1.05, abs=4.5 * 1.9 / 12**0.5 / len(sigmas) ** 0.5)


def test_jitter_is_torchvisions_color_jitter() -> None:
    """Means and spreads of the factors against torchvision's own sampler, and all 24 orders equally often."""
    wanted, draws = AUGMENTATIONS["simclr"], 6000
    generator = np.random.default_rng(3)
    drawn = [d.jitter for d in (draw(wanted, generator.random(CHANCES)) for _ in range(draws)) if d.jitter]
    jitter = v2.ColorJitter(wanted.brightness, wanted.contrast, wanted.saturation, wanted.hue)
    torch.manual_seed(0)
    theirs = [jitter.make_params([]) for _ in range(draws)]
    for name in photometric.JITTER:
        ours = np.array([dict(operations)[name] for operations in drawn])
        reference = np.array([parameters[f"{name}_factor"] for parameters in theirs])
        assert ours.mean() == pytest.approx(reference.mean(), abs=0.06 * reference.std())
        assert ours.std() == pytest.approx(reference.std(), rel=0.05)
        assert ours.min() == pytest.approx(reference.min(), abs=0.01)
        assert ours.max() == pytest.approx(reference.max(), abs=0.01)
    orders = Counter(tuple(name for name, _ in operations) for operations in drawn)
    assert len(orders) == 24
    expected = len(drawn) / 24
    assert sum((count - expected) ** 2 / expected for count in orders.values()) < 55  # chi-square, 23 degrees: p < 2e-4


def test_strength_zero_does_nothing() -> None:
    plain = Augmentation(scale=(1.0, 1.0), jitter=1.0, brightness=0.4)
    assert all(
        [name for name, _ in draw(plain, np.random.default_rng(i).random(CHANCES)).jitter] == ["brightness"]
        for i in range(20)
    )


def test_blur_scales_with_the_run() -> None:
    wanted = AUGMENTATIONS["byol-first"]
    full = draw(wanted, np.random.default_rng(0).random(CHANCES)).sigma
    small = draw(wanted, np.random.default_rng(0).random(CHANCES), blur_scale=96 / 224).sigma
    assert full is not None
    assert small == pytest.approx(full * 96 / 224)


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    seed=st.integers(0, 10**6),
    sigma=st.none() | st.floats(0.04, 2.0),
    threshold=st.none() | st.integers(0, 255),
)
def test_a_grey_view_is_finished_as_three_planes_would_be(
    shape: tuple[int, int], seed: int, sigma: float | None, threshold: int | None
) -> None:
    """Bit for bit, though it is blurred and solarised as one plane."""
    view = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
    plain = np.repeat(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=-1)
    wanted = apply(plain, Photometry(sigma=sigma, solarise=threshold))
    assert np.array_equal(apply(view, Photometry(grey=True, sigma=sigma, solarise=threshold)), wanted)


@settings(max_examples=200, deadline=None)
@given(
    chance=st.lists(st.sampled_from([0.0, 0.25, 0.5]) | st.floats(0, 1, exclude_max=True), min_size=14, max_size=14),
    name=st.sampled_from(sorted(AUGMENTATIONS)),
)
def test_the_numbers_are_read_as_numpy_reads_them(chance: list[float], name: str) -> None:
    """Bit for bit and in NumPy's stable order, ties among the numbers included."""
    wanted, numbers = AUGMENTATIONS[name], np.array(chance)
    found = draw(wanted, numbers)
    limits = np.array([wanted.flip, wanted.jitter, wanted.grey, wanted.blur, wanted.solarise])
    happens = [found.flip, bool(found.jitter), found.grey, found.sigma is not None, found.solarise is not None]
    strengths = np.array([wanted.brightness, wanted.contrast, wanted.saturation, wanted.hue])
    assert happens == ((numbers[:5] < limits) & [True, strengths.any(), True, True, True]).tolist()
    if found.jitter:
        low = np.maximum([0.0, 0.0, 0.0, -np.inf], np.array([1.0, 1.0, 1.0, 0.0]) - strengths)
        factors = low + (np.array([1.0, 1.0, 1.0, 0.0]) + strengths - low) * numbers[6:10]
        order = [i for i in np.argsort(numbers[10:], kind="stable") if strengths[i] > 0]
        assert found.jitter == tuple((photometric.JITTER[i], factors[i]) for i in order)


@settings(max_examples=50, deadline=None)
@given(shape=st.tuples(st.integers(1, 60), st.integers(41, 90)), size=st.integers(1, 40), seed=st.integers(0, 10**6))
def test_a_view_is_resized_in_the_layout_that_is_fast(shape: tuple[int, int], size: int, seed: int) -> None:
    """Bit for bit what torch makes of its own channels-last tensor, and in one piece, as another layout is not."""
    image = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
    found = crop_and_resize(image, np.array([0, 0, shape[1], shape[0]], np.float32), size=size)
    pixels = to_tensor(image)[None].contiguous(memory_format=torch.channels_last)
    wanted = interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    assert np.array_equal(found, wanted[0].permute(1, 2, 0).numpy())
    assert found.flags.c_contiguous


@settings(max_examples=60, deadline=None)
@given(
    edges=st.tuples(st.floats(-5, 60), st.floats(-5, 40), st.floats(0, 70), st.floats(0, 50)),
    size=st.integers(1, 40),
    name=st.sampled_from(sorted(AUGMENTATIONS)),
)
def test_any_box_gives_a_view(edges: tuple[float, float, float, float], size: int, name: str) -> None:
    """Even one that is empty or leaves the image: at least one pixel is cut, none outside."""
    left, top, width, height = edges
    image = np.full((40, 60, 3), 77, np.uint8)
    box = np.array([left, top, left + width, top + height], np.float32)
    assert np.array_equal(crop_and_resize(image, box, size=size), np.full((size, size, 3), 77))
    chance = np.random.default_rng(0).random(CHANCES)
    view = apply(crop_and_resize(image, box, size=size), draw(AUGMENTATIONS[name], chance))
    assert view.shape == (size, size, 3) and view.dtype == np.uint8
    assert len(np.unique(view.reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (64, 200)])
def test_flipped_and_read_only_pictures_are_cut_like_others(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    box = np.array([0, 0, shape[1], shape[0]], np.float32)
    wanted = crop_and_resize(image, box, size=32)
    turned = np.ascontiguousarray(image[::-1, ::-1])[::-1, ::-1]
    image.flags.writeable = False
    assert np.array_equal(crop_and_resize(turned, box, size=32), wanted)
    assert np.array_equal(crop_and_resize(image, box, size=32), wanted)


def test_crop_has_the_right_place_and_colour_order() -> None:
    image = np.zeros((30, 50, 3), np.uint8)
    image[4:14, 8:28] = (250, 100, 3)
    view = crop_and_resize(image, np.array([8, 4, 28, 14], np.float32), size=16)
    assert (view == (250, 100, 3)).all()
