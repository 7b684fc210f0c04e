"""The only pixels: one view is cut, resized and coloured, on uint8, in OpenCV.

`draw` turns chance into numbers (the same count of random numbers for every view, so that no operation depends on
whether another was drawn) and `apply` turns numbers into pixels; `render` does both for one box.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import PIL.Image
from jaxtyping import Float, UInt8

from scenewise.views.augmentations import Augmentation

JITTER = ("brightness", "contrast", "saturation", "hue")
SIGMAS = 3  # half width of the blur kernel in standard deviations: the rest is 0.3 % of the weight


@dataclass(frozen=True, slots=True)
class Photometry:
    """What one view gets.

    jitter: (operation, factor) in the order of application. sigma: of the blur, in the view's pixels, or None.
    solarise: 8-bit threshold or None.
    """

    flip: bool = False
    jitter: tuple[tuple[str, float], ...] = ()
    grey: bool = False
    sigma: float | None = None
    solarise: int | None = None


def draw(augmentation: Augmentation, *, blur_scale: float = 1.0, generator: np.random.Generator) -> Photometry:
    """Draw what one view gets; `blur_scale` is the run's size / 224 and multiplies the blur's sigma."""
    chance = generator.random(14)
    flip, jitter, grey, blur, solarise = chance[:5] < (
        augmentation.flip, augmentation.jitter, augmentation.grey, augmentation.blur, augmentation.solarise
    )  # fmt: skip
    low, high = augmentation.blur_sigma
    return Photometry(
        flip=bool(flip),
        jitter=_jitter(augmentation, uniforms=chance[6:10], order=chance[10:14]) if jitter else (),
        grey=bool(grey),
        sigma=(blur_scale if augmentation.blur_scales else 1.0) * (low + (high - low) * float(chance[5]))
        if blur
        else None,
        solarise=augmentation.solarise_threshold if solarise else None,
    )


def _jitter(
    augmentation: Augmentation, *, uniforms: Float[np.ndarray, "4"], order: Float[np.ndarray, "4"]
) -> tuple[tuple[str, float], ...]:
    """Return (operation, factor) in random order, without the operations of strength 0, which would do nothing."""
    strengths = (augmentation.brightness, augmentation.contrast, augmentation.saturation, augmentation.hue)
    lows = [max(0.0, 1.0 - strength) for strength in strengths[:3]] + [-augmentation.hue]
    highs = [1.0 + strength for strength in strengths[:3]] + [augmentation.hue]
    factors = [low + (high - low) * float(u) for low, high, u in zip(lows, highs, uniforms, strict=True)]
    return tuple((JITTER[i], factors[i]) for i in np.argsort(order, kind="stable") if strengths[i] > 0)


def apply(view: UInt8[np.ndarray, "H W 3"], photometry: Photometry) -> UInt8[np.ndarray, "H W 3"]:
    """Return the view flipped, jittered, greyed, blurred and solarised, in this order (BYOL, appendix B)."""
    if photometry.flip:
        view = cv2.flip(view, 1)
    for name, factor in photometry.jitter:
        view = _OPERATIONS[name](view, factor)
    if photometry.grey:
        view = cv2.cvtColor(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if photometry.sigma is not None:
        view = gaussian_blur(view, photometry.sigma)
    if photometry.solarise is not None:
        view = solarise(view, photometry.solarise)
    return view


def render(
    image: UInt8[np.ndarray, "H W 3"],
    box: Float[np.ndarray, "4"],
    augmentation: Augmentation,
    *,
    size: int,
    blur_scale: float = 1.0,
    generator: np.random.Generator,
) -> UInt8[np.ndarray, "size size 3"]:
    """Return one augmented view of `size` pixels cut from `box`, given in pixels of `image`."""
    view = crop_and_resize(image, box, size=size)
    return apply(view, draw(augmentation, blur_scale=blur_scale, generator=generator))


def crop_and_resize(
    image: UInt8[np.ndarray, "H W 3"], box: Float[np.ndarray, "4"], *, size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """Cut the box and resize it to `size` x `size`: bilinear, anti-aliased where a side shrinks, as torchvision does.

    Only pixels under the box are read. Its edges may be fractions of a pixel; a crop that is enlarged is cut at whole
    pixels. A box that is empty or outside gives the pixels nearest to it.
    """
    height, width = map(float, image.shape[:2])
    left, top = min(max(float(box[0]), 0.0), width - 1), min(max(float(box[1]), 0.0), height - 1)
    right, bottom = min(max(float(box[2]), left + 1), width), min(max(float(box[3]), top + 1), height)
    if right - left <= size and bottom - top <= size:
        crop = image[_round(top) : _round(bottom), _round(left) : _round(right)]
        return np.asarray(cv2.resize(crop, (size, size), interpolation=cv2.INTER_LINEAR))
    x, y = math.floor(left), math.floor(top)
    crop = image[y : math.ceil(bottom), x : math.ceil(right)]
    # OpenCV has no anti-aliased bilinear filter and no boxes of fractional pixels; Pillow's costs 0.1 ms more than
    # OpenCV's area filter and is the one that the papers' crops went through.
    edges = (left - x, top - y, right - x, bottom - y)
    return np.asarray(PIL.Image.fromarray(crop).resize((size, size), PIL.Image.Resampling.BILINEAR, edges))


def _round(edge: float) -> int:
    return math.floor(edge + 0.5)


def brightness(view: UInt8[np.ndarray, "H W 3"], factor: float) -> UInt8[np.ndarray, "H W 3"]:
    """Multiply by `factor` >= 0, rounded and clamped to 0..255."""
    return np.asarray(cv2.addWeighted(view, factor, view, 0.0, 0.0))


def contrast(view: UInt8[np.ndarray, "H W 3"], factor: float) -> UInt8[np.ndarray, "H W 3"]:
    """Blend with the rounded mean of the grey view: factor x + (1 - factor) mean."""
    mean = math.floor(cv2.mean(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY))[0] + 0.5)
    return np.asarray(cv2.addWeighted(view, factor, view, 0.0, (1.0 - factor) * mean))


def saturation(view: UInt8[np.ndarray, "H W 3"], factor: float) -> UInt8[np.ndarray, "H W 3"]:
    """Blend each pixel with its grey value: factor x + (1 - factor) grey."""
    grey = cv2.cvtColor(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return np.asarray(cv2.addWeighted(view, factor, grey, 1.0 - factor, 0.0))


def hue(view: UInt8[np.ndarray, "H W 3"], shift: float) -> UInt8[np.ndarray, "H W 3"]:
    """Turn the hue by `shift` turns (-0.5..0.5) in 8-bit HSV, as Pillow-backed torchvision does."""
    hsv = cv2.cvtColor(view, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(shift * 256) % 256)  # 256 steps are a whole turn: the overflow wraps around
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL))


def gaussian_blur(view: UInt8[np.ndarray, "H W 3"], sigma: float) -> UInt8[np.ndarray, "H W 3"]:
    """Blur with a Gaussian of `sigma` pixels (> 0), the border mirrored."""
    side = 2 * math.ceil(SIGMAS * sigma) + 1
    return np.asarray(cv2.GaussianBlur(view, (side, side), sigma))


def solarise(view: UInt8[np.ndarray, "H W 3"], threshold: int) -> UInt8[np.ndarray, "H W 3"]:
    """Invert every value from `threshold` up."""
    values = np.arange(256)
    return np.asarray(cv2.LUT(view, np.where(values >= threshold, 255 - values, values).astype(np.uint8)))


_OPERATIONS = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
