"""What `photometric.apply` does to one view, done to a batch of views on the device that trains.

The loader then only decodes, cuts and resizes. The numbers are drawn where they always are, from the same keys; only
where the pixels are computed differs. Same operations, same order, values rounded to 8 bits after each of them as the
CPU's are: 99 % of the values of real photos are equal or one level apart (tests/views/test_on_device.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

from scenewise.views.photometric import JITTER, LUMA, Photometry, gaussian_kernel

COLUMNS = 12  # flip, grey, sigma, solarise, then four operations and their four factors
_NO_SOLARISE = 256.0
_NONE = -1.0  # no operation

Views = Float32[Tensor, "n 3 height width"]
PerView = Float32[Tensor, "n 1 1 1"]
COMPILED_RADII = 4  # pixels that the blur's radius is a multiple of where it is compiled: each length is a graph
Operations = Mapping[str, Callable[[Tensor, Tensor], Tensor]]


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
    compiled: bool = False,
) -> UInt8[Tensor, "views batch 3 height width"]:
    """Return the views flipped, jittered, greyed, blurred and solarised as their numbers (`as_numbers`) say.

    views are on the device, numbers on the host: there it is known which views an operation is for, so that each is
    computed for those alone, and nothing has to wait for the device. Keeps the memory layout. View after view, as the
    values take four times the memory while they are worked on. compiled: each operation by torch.compile, one pass over
    the pixels where there were up to forty; one level in a million values is another then.
    """
    return torch.stack([_apply(*each, compiled=compiled) for each in zip(views, numbers.numpy(), strict=True)])


def _apply(
    views: UInt8[Tensor, "n 3 height width"], numbers: Float32[np.ndarray, "n 12"], *, compiled: bool
) -> UInt8[Tensor, "n 3 height width"]:
    flat, operations = views.float(), _compiled() if compiled else _OPERATIONS
    plan = _plan(numbers, radii=COMPILED_RADII if compiled else 1)
    if compiled:
        plan = [(name, _four_at_least(rows), _four_at_least(values)) for name, rows, values in plan]
    places = _on_device([rows for _, rows, _ in plan], views.device)
    factors = _on_device([values for _, _, values in plan], views.device)
    for (name, _, _), rows, by in zip(plan, places, factors, strict=True):
        flat.index_copy_(0, rows, operations[name](flat.index_select(0, rows), by))
    channels_last = views.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return flat.to(torch.uint8).contiguous(memory_format=layout)


def _on_device(arrays: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """Return arrays of one type as tensors on the device, by a single copy for which the host does not wait."""
    if not arrays:
        return []
    joined = torch.from_numpy(np.concatenate([each.ravel() for each in arrays]))
    if device.type == "cuda":
        joined = joined.pin_memory()
    parts = torch.split(joined.to(device, non_blocking=True), [each.size for each in arrays])
    # in memory of their own: where a part begins would belong to a compiled graph
    return [part.view(each.shape).clone() for part, each in zip(parts, arrays, strict=True)]


def _four_at_least(rows: np.ndarray) -> np.ndarray:
    """Return the rows, the last repeated until they are four: for 1, and for 3 as the channels, torch makes a graph."""
    return np.concatenate([rows, np.repeat(rows[-1:], max(0, 4 - len(rows)), axis=0)])


def _plan(numbers: Float32[np.ndarray, "n 12"], *, radii: int) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return what is to be done, in order: the operation, the rows (int64) that it is for, what each of them gets.

    radii: of what the radius of the blur's weights is a multiple.
    """
    flip, grey, sigma, solarise = numbers[:, :4].T
    kinds, factors = numbers[:, 4:8], numbers[:, 8:]
    wanted = [("flip", flip > 0, flip)]
    wanted += [
        (name, kinds[:, place] == number, factors[:, place])
        for place in range(len(JITTER))
        for number, name in enumerate(JITTER)
    ]
    wanted += [("grey", grey > 0, grey), ("blur", sigma > 0, sigma), ("solarise", solarise < _NO_SOLARISE, solarise)]
    chosen = [(name, np.flatnonzero(where), values[where]) for name, where, values in wanted if where.any()]
    return [
        (name, rows, _kernels(values, radii) if name == "blur" else values.reshape(-1, 1, 1, 1))
        for name, rows, values in chosen
    ]


def _kernels(sigmas: Float32[np.ndarray, " n"], radii: int) -> Float32[np.ndarray, "n taps"]:
    """Return the weights that the CPU blurs with, (n, taps): those of each view, zeros around the shorter ones."""
    kernels = [gaussian_kernel(sigma).ravel() for sigma in sigmas.tolist()]
    radius = max(map(len, kernels)) // 2
    longest = 2 * math.ceil(radius / radii) * radii + 1
    return np.stack([np.pad(kernel, (longest - len(kernel)) // 2) for kernel in kernels])


def _levels(values: Float32[Tensor, "n channels height width"]) -> Float32[Tensor, "n channels height width"]:
    """Return the values as 8 bits can hold them."""
    return values.round().clamp(0.0, 255.0)


def _luma(views: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n 1 height width"]:
    red, green, blue = LUMA  # plain numbers: a tensor made of them would have to be copied to the device
    return red * views[:, :1] + green * views[:, 1:2] + blue * views[:, 2:]


def _flip(views: Views, _: PerView) -> Views:
    return views.flip(-1)


def _brighten(views: Views, by: PerView) -> Views:
    return _levels(by * views)


def _contrast(views: Views, by: PerView) -> Views:
    # whole numbers are summed, so that the mean is the same to the bit however many views there are
    means = views.sum(dim=(2, 3), keepdim=True, dtype=torch.float64) / views[0, 0].numel()
    return _levels(by * views + (1.0 - by) * (_luma(means) + 0.5).floor().float())


def _saturate(views: Views, by: PerView) -> Views:
    return _levels(by * views + (1.0 - by) * _luma(views))


def _hue(views: Views, by: PerView) -> Views:
    return _levels(_turn(views, by))


def _grey(views: Views, _: PerView) -> Views:
    return _levels(_luma(views)).expand_as(views)


def _solarise(views: Views, threshold: PerView) -> Views:
    return torch.where(views >= threshold, 255.0 - views, views)


def _turn(views: Views, shift: PerView) -> Views:
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


def _blur(views: Views, weights: Float32[Tensor, "n taps"]) -> Views:
    """Blur each view with its own weights along both sides, the border mirrored."""
    taps = weights.shape[1]
    for dim in (2, 3):
        length = views.shape[dim]
        padded = views.index_select(dim, _mirrored(length, taps // 2, views.device))
        blurred = torch.zeros_like(views)
        for tap in range(taps):
            blurred = torch.addcmul(blurred, weights[:, tap].view(-1, 1, 1, 1), padded.narrow(dim, tap, length))
        views = blurred
    return _levels(views)


def _mirrored(length: int, radius: int, device: torch.device) -> Int64[Tensor, " padded"]:
    """Return the places -radius .. length + radius - 1, folded back into the picture without repeating its edge."""
    period = max(1, 2 * (length - 1))
    places = torch.arange(-radius, length + radius, device=device).remainder(period)
    return torch.minimum(places, period - places)


_OPERATIONS: Operations = {
    "flip": _flip,
    "brightness": _brighten,
    "contrast": _contrast,
    "saturation": _saturate,
    "hue": _hue,
    "grey": _grey,
    "blur": _blur,
    "solarise": _solarise,
}


@cache
def _compiled() -> Operations:
    """Return the operations, compiled when first used: each one graph for any number of views of any size.

    One for each length of the blur's weights (`COMPILED_RADII`): two at 224 px, three at 448.
    """
    return {name: torch.compile(operation, dynamic=True) for name, operation in _OPERATIONS.items()}
