"""A strided convolution over one pixel, in bf16 on a CPU: PyTorch (oneDNN) computes its weights' gradient wrongly.

With 3x3 weights, stride 2 and padding 1 a feature map of 1 x 1 meets the middle of the weights only, so the rest has a
gradient of zero. What comes back there is whatever the memory held before: another result each time, now and then not
finite (seen in torch 2.14, of 1 x 1 maps alone; float32 is right). ResNets meet it at 16 pixels, that is in SwAV's
small crops at `--size 32`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F


def widen_one_pixel(module: nn.Module) -> int:
    """Let every strided convolution of a module see one pixel with zeros to its right and below; return how many.

    They lie where the padding lay before, so the output is the same, and the gradient of a 2 x 2 map is right. Names,
    weights and larger feature maps are as they were.
    """
    found = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d) and _may_err(layer)]
    for layer in found:
        layer.register_forward_pre_hook(_widen)
    return len(found)


def _may_err(layer: nn.Conv2d) -> bool:
    """Return whether one pixel and two of them both give one pixel: an odd kernel, padded to its middle, that skips."""
    centred = all(2 * pad + 1 == side for pad, side in zip(_pair(layer.padding), layer.kernel_size, strict=True))
    return centred and max(layer.kernel_size) > 1 and min(layer.stride) > 1 and max(layer.dilation) == 1


def _pair(padding: str | tuple[int, ...]) -> tuple[int, ...]:
    return (-1, -1) if isinstance(padding, str) else padding


def _widen(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor, ...] | None:
    images: Tensor = inputs[0]
    return (F.pad(images, (0, 1, 0, 1)),) if images.shape[-2:] == (1, 1) else None
