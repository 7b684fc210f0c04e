"""The only pixels: one view is cut, resized and coloured, on uint8, each step by the fastest library that is exact.

`draw` turns chance into numbers (the same count of random numbers for every view, so that no operation depends on
whether another was drawn) and `apply` turns numbers into pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch.nn.functional import interpolate

from scenewise.views.augmentations import Augmentation

JITTER = ("brightness", "contrast", "saturation", "hue")
CHANCES = 14  # random numbers that one view takes
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: the grey value of a pixel, in OpenCV, Pillow and torchvision
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


def draw(augmentation: Augmentation, chance: Float[np.ndarray, "14"], *, blur_scale: float = 1.0) -> Photometry:
    """Return what one view gets, by numbers `chance` in [0, 1).

    `blur_scale` is the run's size / 224 and multiplies the blur's sigma.
    """
    flip, jitter, grey, blur, solarise, softness, *rest = chance.tolist()
    low, high = augmentation.blur_sigma
    return Photometry(
        flip=flip < augmentation.flip,
        jitter=_jitter(augmentation, uniforms=rest[:4], order=rest[4:]) if jitter < augmentation.jitter else (),
        grey=grey < augmentation.grey,
        sigma=(blur_scale if augmentation.blur_scales else 1.0) * (low + (high - low) * softness)
        if blur < augmentation.blur
        else None,
        solarise=augmentation.solarise_threshold if solarise < augmentation.solarise else None,
    )


def _jitter(
    augmentation: Augmentation, *, uniforms: Sequence[float], order: Sequence[float]
) -> tuple[tuple[str, float], ...]:
    """Return (operation, factor) in random order, without the operations of strength 0, which would do nothing.

    Of four numbers each: `uniforms` become the factors, and the operation with the smallest of `order` comes first.
    """
    strengths = (augmentation.brightness, augmentation.contrast, augmentation.saturation, augmentation.hue)
    lows = [max(0.0, 1.0 - strength) for strength in strengths[:3]] + [-augmentation.hue]
    highs = [1.0 + strength for strength in strengths[:3]] + [augmentation.hue]
    factors = [low + (high - low) * u for low, high, u in zip(lows, highs, uniforms, strict=True)]
    return tuple((JITTER[i], factors[i]) for i in sorted(range(4), key=order.__getitem__) if strengths[i] > 0)


def apply(view: UInt8[np.ndarray, "H W 3"], photometry: Photometry) -> UInt8[np.ndarray, "H W 3"]:
    """Return the view flipped, jittered, greyed, blurred and solarised, in this order (BYOL, appendix B)."""
    if photometry.flip:
        view = cv2.flip(view, 1)
    for name, factor in photometry.jitter:
        view = _OPERATIONS[name](view, factor)
    if photometry.grey:
        view = cv2.cvtColor(view, cv2.COLOR_RGB2GRAY)  # (H, W): three equal planes would be blurred alike
    if photometry.sigma is not None:
        view = gaussian_blur(view, photometry.sigma)
    if photometry.solarise is not None:
        view = solarise(view, photometry.solarise)
    return cv2.cvtColor(view, cv2.COLOR_GRAY2RGB) if photometry.grey else view


def crop_and_resize(
    image: UInt8[np.ndarray, "H W 3"], box: Float[np.ndarray, "4"], *, size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """Cut the box, its edges at whole pixels, and resize it to `size` x `size`.

    Bilinear, anti-aliased where a side shrinks, as Pillow and torchvision do: torch's kernel for 8-bit images gives
    Pillow's pixels (a few per thousand a level apart) in a third to a quarter of its time. Only pixels under the box
    are read. A box that is empty or outside gives the pixels nearest to it.
    """
    height, width = image.shape[:2]
    left, top, right, bottom = (math.floor(edge + 0.5) for edge in box.tolist())
    left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    right, bottom = min(max(right, left + 1), width), min(max(bottom, top + 1), height)
    crop = image[top:bottom, left:right]
    if right - left <= size and bottom - top <= size:
        return np.asarray(cv2.resize(crop, (size, size), interpolation=cv2.INTER_LINEAR))
    # (h, w, 3) -> (1, 3, h, w), channels last in memory: the layout that the kernel is fast for. NumPy turns the axes
    # faster than torch; `[None]` would give a stride of 0, which torch does not take for channels last.
    pixels = torch.from_numpy(_plain(crop).reshape(1, *crop.shape).transpose(0, 3, 1, 2))
    resized = interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    return np.asarray(resized.numpy()[0].transpose(1, 2, 0))


def _plain(crop: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return the crop as torch can take it: in one piece, writeable, no stride negative (as flipped arrays have)."""
    usable = crop.flags.c_contiguous and crop.flags.writeable and min(crop.strides) > 0
    return crop if usable else crop.copy()


def brightness(view: UInt8[np.ndarray, "H W 3"], factor: float) -> UInt8[np.ndarray, "H W 3"]:
    """Multiply by `factor` >= 0, rounded and clamped to 0..255."""
    return np.asarray(cv2.convertScaleAbs(view, alpha=factor))


def contrast(view: UInt8[np.ndarray, "H W 3"], factor: float) -> UInt8[np.ndarray, "H W 3"]:
    """Blend with the rounded mean of the grey view: factor x + (1 - factor) mean."""
    mean_grey = math.floor(sum(weight * mean for weight, mean in zip(LUMA, cv2.mean(view), strict=False)) + 0.5)
    return np.asarray(cv2.addWeighted(view, factor, view, 0.0, (1.0 - factor) * mean_grey))


def saturation(view: UInt8[np.ndarray, "H W 3"], factor: float) -> UInt8[np.ndarray, "H W 3"]:
    """Blend each pixel with its grey value: factor x + (1 - factor) grey."""
    return np.asarray(cv2.transform(view, factor * _SAME + (1.0 - factor) * _GREY))


def hue(view: UInt8[np.ndarray, "H W 3"], shift: float) -> UInt8[np.ndarray, "H W 3"]:
    """Turn the hue by `shift` turns (-0.5..0.5) in 8-bit HSV, as Pillow-backed torchvision does."""
    hsv = cv2.cvtColor(view, cv2.COLOR_RGB2HSV_FULL)
    rows = hsv.reshape(len(view), -1)  # one long row of H, S, V, H, ...: one addition without strides
    turn = np.zeros(rows.shape[1], np.uint8)
    turn[::3] = round(shift * 256) % 256  # 256 steps are a whole turn: the overflow wraps around
    np.add(rows, turn, out=rows)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL))


def gaussian_kernel(sigma: float) -> Float[np.ndarray, "taps 1"]:
    """Return the float32 weights of the blur by `sigma` pixels (> 0); they add up to 1."""
    return np.asarray(cv2.getGaussianKernel(2 * math.ceil(SIGMAS * sigma) + 1, sigma, cv2.CV_32F))


def gaussian_blur(view: UInt8[np.ndarray, "H W *channels"], sigma: float) -> UInt8[np.ndarray, "H W *channels"]:
    """Blur each channel with a Gaussian of `sigma` pixels (> 0), the border mirrored."""
    kernel = gaussian_kernel(sigma)
    # half the time of cv2.GaussianBlur, which is exact to the last bit in fixed point
    return np.asarray(cv2.sepFilter2D(view, -1, kernel, kernel))


def solarise(view: UInt8[np.ndarray, "H W *channels"], threshold: int) -> UInt8[np.ndarray, "H W *channels"]:
    """Invert every value from `threshold` up."""
    values = np.arange(256)
    return np.asarray(cv2.LUT(view, np.where(values >= threshold, 255 - values, values).astype(np.uint8)))


_SAME, _GREY = np.eye(3), np.outer(np.ones(3), LUMA)  # the colour matrices of saturation 1 and 0
_OPERATIONS = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
