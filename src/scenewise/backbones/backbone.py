"""A backbone: images in, pooled float32 features out, and what must be known to use its weights."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Float
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from scenewise.errors import UserError
from scenewise.types import IMAGENET_MEAN as IMAGENET_MEAN
from scenewise.types import IMAGENET_STD as IMAGENET_STD
from scenewise.types import Colour as Colour

STEMS = ("imagenet", "cifar", "cifar-pool")
NORMS = ("batch", "group")
STRIDES = (4, 8, 16, 32)  # of the maps of a pyramid


@dataclass(frozen=True, slots=True)
class WeightsInfo:
    """What the weights expect and where they come from.

    size: side in pixels of the square images they were made for.
    mean, std: per channel (RGB, 0..1), subtracted from and dividing the images.
    method: what trained them ("mls", "mocov2", ...), "random", or the name of a published set.
    version: the Scenewise version that wrote the file, "" for weights it did not write.
    """

    size: int
    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD
    method: str = "random"
    version: str = ""


class Backbone(nn.Module):
    """A timm model without classifier.

    name: timm's name of the architecture. width: number of pooled features.
    stem: "imagenet" (the architecture's own), "cifar" (3x3, stride 1, no max pool: images of about 32 px), or
    "cifar-pool" (3x3, stride 1, with the max pool: of about 64 px).
    norm: "batch" (the architecture's own) or "group" (32 groups in place of every batch norm).
    weights: what the weights expect and where they come from.
    """

    def __init__(self, model: nn.Module, *, name: str, stem: str, norm: str, weights: WeightsInfo) -> None:
        super().__init__()
        self.model = model
        self.name = name
        self.stem = stem
        self.norm = norm
        self.weights = weights
        self.width = int(model.head_hidden_size)  # type: ignore[arg-type]
        self._channels = int(model.num_features)  # type: ignore[arg-type]
        self._patch = tuple(model.patch_embed.patch_size) if isinstance(model, VisionTransformer) else None

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features"]:
        """Return pooled features, float32 (float64 for a float64 backbone).

        The network runs under whatever autocast is on; the last map is lifted to float32 before pooling (law 5).
        """
        return self.pool(self._last_map(images))

    def feature_map(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch channels rows columns"]:
        """Return the last feature map, (B, width, H / stride, W / stride), in the network's precision; `pool` takes it.

        A few architectures (MobileNetV3, VGG) widen after pooling: there the map has fewer channels than `width`.
        Raises UserError for a backbone whose last features are not such a map (ViT, Swin).
        """
        features = self._last_map(images)
        if features.ndim != 4 or features.shape[1] != self._channels:
            raise UserError(
                f"backbone: {self.name!r} has no convolutional feature map, which this method needs; "
                "use a ResNet or ConvNeXt, for example 'resnet50'"
            )
        return features

    def pyramid(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch channels rows columns"], ...]:
        """Return the maps of the stages at strides 4, 8, 16, 32 (C2 to C5), finest first, in the network's precision.

        Raises UserError for a backbone whose features do not shrink so (ViT, a CIFAR stem).
        """
        self.check_pyramid()
        maps: list[Tensor] = self.model.forward_intermediates(images, indices=len(STRIDES), intermediates_only=True)  # type: ignore[operator]
        return tuple(maps)

    def check_pyramid(self) -> None:
        """Raise UserError unless `pyramid` works."""
        if self.pyramid_channels is None:
            stem = "" if self.stem == "imagenet" else f" with the stem {self.stem!r}"
            raise UserError(
                f"backbone: {self.name!r}{stem} has no maps at strides {', '.join(map(str, STRIDES))}, which this "
                "protocol needs; use a ResNet or ConvNeXt, for example 'resnet50'"
            )

    @property
    def pyramid_channels(self) -> tuple[int, ...] | None:
        """Return the channels of each map of `pyramid`, or None where there is no such pyramid."""
        stages = getattr(self.model, "feature_info", None)
        if self.stem != "imagenet" or stages is None or not hasattr(self.model, "forward_intermediates"):
            return None
        last = list(stages)[-len(STRIDES) :]
        return tuple(each["num_chs"] for each in last) if tuple(e["reduction"] for e in last) == STRIDES else None

    def pool(self, features: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch features"]:
        """Return the pooled features of a feature map or token sequence, pooled as timm does, in float32."""
        lifted = features if features.dtype == torch.float64 else features.float()
        with torch.autocast(device_type=features.device.type, enabled=False):
            pooled: Tensor = self.model.forward_head(lifted, pre_logits=True)  # type: ignore[operator]
        return pooled

    def compile_network(self) -> None:
        """Compile images -> last map, which `forward` and `feature_map` share; names and weights stay as they are."""
        self.model.forward_features = torch.compile(self.model.forward_features)  # type: ignore[arg-type,assignment]

    def check_size(self, *sides: int) -> None:
        """Raise UserError for an image side in pixels that a ViT cannot cut into whole patches."""
        if self._patch is None:
            return
        for side, patch in zip(sides, (self._patch * len(sides))[: len(sides)], strict=True):
            if side % patch:
                below, above = side // patch * patch, (side // patch + 1) * patch
                nearest = f"{below} and {above}" if below else f"{above}"
                raise UserError(
                    f"size: {side} px is not divisible by the patch of {patch} px of backbone {self.name!r}; "
                    f"nearest valid: {nearest}"
                )

    def use_size(self, size: int) -> None:
        """Make `size` px the side of its images; a ViT's position embeddings are resampled to that grid, once."""
        self.check_size(size)
        if size == self.weights.size:
            return
        if isinstance(self.model, VisionTransformer):
            with torch.no_grad():
                self.model.set_input_size(img_size=(size, size))
        self.weights = dataclasses.replace(self.weights, size=size)

    def _last_map(self, images: Tensor) -> Tensor:
        self.check_size(*images.shape[-2:])
        features: Tensor = self.model.forward_features(images)  # type: ignore[operator]
        return features
