"""The augmentations a slot can name, each number with its origin. They say what is drawn; `photometric` does it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from scenewise.errors import UserError, unknown_name

RATIO = (3 / 4, 4 / 3)  # aspect (width / height) of a random resized crop in all the papers below


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """What happens to a view after its region is known, and how large that region is. The defaults do nothing.

    scale: share of the photo's area a scene crop covers; ratio: its width / height, drawn log-uniformly.
    flip: probability of a horizontal mirror.
    jitter: probability of the colour jitter, whose four operations come in random order; brightness, contrast and
    saturation factors are uniform in [max(0, 1 - strength), 1 + strength], the hue shift in [-hue, hue] turns, at most
    half a turn.
    grey, blur, solarise: probabilities. blur_sigma: pixels of a 224-pixel view, scaled with the run's size, or, where
    `blur_scales` is off, of the view itself.
    solarise_threshold: 8-bit value from which a value is inverted.
    """

    scale: tuple[float, float]
    ratio: tuple[float, float] = RATIO
    flip: float = 0.0
    jitter: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_scales: bool = True
    solarise: float = 0.0
    solarise_threshold: int = 128


# MoCo v2 (Chen et al. 2020, arXiv 2003.04297; facebookresearch/moco main_moco.py --aug-plus).
MOCO = Augmentation(
    scale=(0.2, 1.0), flip=0.5,
    jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1,
    grey=0.2, blur=0.5,
)  # fmt: skip

# SimCLR at colour strength 1 (Chen et al. 2020, arXiv 2002.05709, appendix A; google-research/simclr data_util.py).
SIMCLR = Augmentation(
    scale=(0.08, 1.0), flip=0.5,
    jitter=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2,
    grey=0.2, blur=0.5,
)  # fmt: skip

# BYOL's two asymmetric views T and T' (Grill et al. 2020, arXiv 2006.07733, table 6). The paper resizes bicubically;
# here, as in ORL's re-implementation for scenes, the resize is the common one.
BYOL_FIRST = Augmentation(
    scale=(0.08, 1.0), flip=0.5,
    jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1,
    grey=0.2, blur=1.0, solarise=0.0,
)  # fmt: skip
BYOL_SECOND = Augmentation(
    scale=(0.08, 1.0), flip=0.5,
    jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1,
    grey=0.2, blur=0.1, solarise=0.2,
)  # fmt: skip

# ReSSL's teacher view (Zheng et al. 2021, arXiv 2107.09282; data/augmentation.py); MSF's weak one too.
WEAK = Augmentation(scale=(0.2, 1.0), flip=0.5)

# MSVQ (Chen et al. 2023, arXiv 2305.05370; dataset/data.py), for images of 32 and 64 pixels: MoCo v2's strong view with
# the blur in pixels of the small view, and a weak view whose mirror has probability 0.9.
MSVQ_STRONG = dataclasses.replace(MOCO, blur_scales=False)
MSVQ_WEAK = dataclasses.replace(WEAK, flip=0.9)

# For images of 32 pixels: SimCLR's at half the colour strength (google-research/simclr README), and MoCo's CIFAR
# notebook (torchvision's own crop range); neither blurs.
SIMCLR_CIFAR = dataclasses.replace(SIMCLR, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, blur=0.0)
MOCO_CIFAR = dataclasses.replace(MOCO, scale=(0.08, 1.0), blur=0.0)

# The first author's SimCLR-type code for STL10 at 96 pixels (alivaramesh/MIXEM): the blur in pixels of the small view.
STL10 = dataclasses.replace(SIMCLR, blur_scales=False)

AUGMENTATIONS: Mapping[str, Augmentation] = MappingProxyType(
    {
        "moco": MOCO,
        "simclr": SIMCLR,
        "byol-first": BYOL_FIRST,
        "byol-second": BYOL_SECOND,
        "weak": WEAK,
        "msvq-strong": MSVQ_STRONG,
        "msvq-weak": MSVQ_WEAK,
        "simclr-cifar": SIMCLR_CIFAR,
        "moco-cifar": MOCO_CIFAR,
        "stl10": STL10,
    }
)


def augmentation(name: str) -> Augmentation:
    """Return the augmentation of that name; UserError with the nearest name where there is none."""
    if name not in AUGMENTATIONS:
        raise UserError(unknown_name("augmentation", name, AUGMENTATIONS))
    return AUGMENTATIONS[name]
