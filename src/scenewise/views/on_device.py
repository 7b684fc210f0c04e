"""What `photometric.apply` does to one view, done to a batch of views on the device that trains.

The loader then only decodes, cuts and resizes. The numbers are drawn where they always are, from the same keys; only
where the pixels are computed differs. Same operations, same order, values rounded to 8 bits after each of them as the
CPU's are: 99 % of the values of real photos are equal or one level apart (tests/views/test_on_device.py).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from scenewise.views.photometric import JITTER, LUMA, SIGMAS, Photometry

COLUMNS = 12  # flip, grey, sigma, solarise, then four operations and their four factors
_NO_SOLARISE = 256.0
_NONE = -1.0  # no operation

Views = Float32[Tensor, "n 3 height width"]
PerView = Float32[Tensor, " n"]


def as_numbers(photometry: Photometry) -> Float32[np.ndarray, "12"]:
    """Return what a view gets as a row of numbers, to travel with the batch."""
    row = np.full(COLUMNS, _NONE, np.float32)
    row[0], row[1], row[2] = photometry.flip, photometry.grey, photometry.sigma or 0.0
    row[3] = _NO_SOLARISE if photometry.solarise is None else photometry.solarise
    for place, (name, factor) in enumerate(photometry.jitter):
        row[4 + place], row[8 + place] = JITTER.index(name), factor
    return row


def apply_to_batch(
    views: UInt8[Tensor, "views batch 3 height width"],
    numbers: Float32[Tensor, "views batch 12"],
    *,
    largest_sigma: float,
) -> UInt8[Tensor, "views batch 3 height width"]:
    """Return the views flipped, jittered, greyed, blurred and solarised as their numbers (`as_numbers`) say.

    largest_sigma: of the blur in these views' pixels, an upper bound that sets how many neighbours are read; 0: no
    view is blurred. Keeps the memory layout. Nothing here waits for the device. View after view, as the values take
    four times the memory while they are worked on.
    """
    return torch.stack([_apply(*each, largest_sigma=largest_sigma) for each in zip(views, numbers, strict=True)])


def _apply(
    views: UInt8[Tensor, "n 3 height width"], numbers: Float32[Tensor, "n 12"], *, largest_sigma: float
) -> UInt8[Tensor, "n 3 height width"]:
    flat = views.float()
    flip, grey, sigma, solarise = (column.view(-1, 1, 1, 1) for column in numbers[:, :4].unbind(1))
    operations, factors = numbers[:, 4:8], numbers[:, 8:]
    flat = torch.where(flip > 0, flat.flip(-1), flat)
    for place in range(len(JITTER)):
        flat = _jitter(flat, operations[:, place], factors[:, place])
    flat = torch.where(grey > 0, _levels(_luma(flat)), flat)
    if largest_sigma > 0:
        flat = torch.where(sigma > 0, _levels(_blur(flat, sigma.flatten(), math.ceil(SIGMAS * largest_sigma))), flat)
    flat = torch.where(flat >= solarise, 255.0 - flat, flat)
    channels_last = views.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return flat.to(torch.uint8).contiguous(memory_format=layout)


def _levels(values: Float32[Tensor, "n channels height width"]) -> Float32[Tensor, "n channels height width"]:
    """Return the values as 8 bits can hold them."""
    return values.round().clamp(0.0, 255.0)


def _luma(views: Views) -> Float32[Tensor, "n 1 height width"]:
    red, green, blue = LUMA  # plain numbers: a tensor made of them would have to be copied to the device
    return red * views[:, :1] + green * views[:, 1:2] + blue * views[:, 2:]


def _jitter(views: Views, operation: PerView, factor: PerView) -> Views:
    """Return each view after its own operation with its own factor; one without an operation as it is."""
    chosen, by = operation.view(-1, 1, 1, 1), factor.view(-1, 1, 1, 1)
    grey = _luma(views)
    mean = (grey.mean(dim=(2, 3), keepdim=True) + 0.5).floor()
    results = {
        "brightness": by * views,
        "contrast": by * views + (1.0 - by) * mean,
        "saturation": by * views + (1.0 - by) * grey,
        "hue": _turn(views, by),
    }
    for number, name in enumerate(JITTER):
        views = torch.where(chosen == number, _levels(results[name]), views)
    return views


def _turn(views: Views, shift: Float32[Tensor, "n 1 1 1"]) -> Views:
    """Turn the hue by `shift` turns, in the 8-bit HSV of OpenCV: 256 steps a turn to it, 255 back from it."""
    value, least = views.amax(dim=1, keepdim=True), views.amin(dim=1, keepdim=True)
    spread = value - least
    red, green, blue = views[:, :1], views[:, 1:2], views[:, 2:]
    divisor = spread.clamp(min=1.0)  # levels are whole numbers: a smaller spread is 0, and then so is what is divided
    sector = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2.0 + (blue - red) / divisor, 4.0 + (red - green) / divisor),
    )
    steps = (sector * (256.0 / 6.0)).round() + (shift * 256.0).round()
    hue = torch.remainder(steps, 256.0) * (6.0 / 255.0)
    saturation = (255.0 * spread / value.clamp(min=1.0)).round() / 255.0
    # channel = value (1 - saturation max(0, min(k, 4 - k, 1))) with k = (5, 3, 1 + hue) modulo 6
    offsets = torch.arange(5.0, 0.0, -2.0, device=views.device).view(3, 1, 1)
    place = torch.remainder(hue + offsets, 6.0)
    return value * (1.0 - saturation * torch.minimum(place, 4.0 - place).clamp(0.0, 1.0))


def _blur(views: Views, sigma: PerView, radius: int) -> Views:
    """Blur each view with its own Gaussian, cut off as the CPU's is, the border mirrored; sigma 0 leaves a view."""
    offsets = torch.arange(-radius, radius + 1, device=views.device, dtype=views.dtype)
    width = sigma.clamp(min=1e-3)[:, None]
    weights = torch.exp(-0.5 * (offsets / width) ** 2) * (offsets.abs() <= (SIGMAS * width).ceil())
    weights = weights / weights.sum(dim=1, keepdim=True)
    for dim in (2, 3):
        length = views.shape[dim]
        padded = views.index_select(dim, _mirrored(length, radius, views.device))
        blurred = torch.zeros_like(views)
        for tap in range(2 * radius + 1):
            blurred = torch.addcmul(blurred, weights[:, tap].view(-1, 1, 1, 1), padded.narrow(dim, tap, length))
        views = blurred
    return views


def _mirrored(length: int, radius: int, device: torch.device) -> Int64[Tensor, " padded"]:
    """Return the places -radius .. length + radius - 1, folded back into the picture without repeating its edge."""
    period = max(1, 2 * (length - 1))
    places = torch.arange(-radius, length + radius, device=device).remainder(period)
    return torch.minimum(places, period - places)
