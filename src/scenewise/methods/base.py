"""What every method is: a plain module with slots, a Config, a step, and a teacher that moves after the update."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

from pydantic import AfterValidator
from torch import nn

from scenewise.errors import UserError
from scenewise.types import Batch, Progress, StepOutput
from scenewise.views.augmentations import augmentation
from scenewise.views.slots import Slot


def _known(name: str) -> str:
    """Return the name of an augmentation; UserError where there is none of that name."""
    augmentation(name)
    return name


# what a Config calls an augmentation by: a configuration with a wrong name is refused by the name of its field
AugmentationName = Annotated[str, AfterValidator(_known)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """The published optimiser settings of a method, used where a run does not say otherwise.

    `lr` is for 256 images a step; `final_lr` and `warmup_start` are shares of the peak.
    """

    optimiser: Literal["sgd", "lars", "adam", "adamw"]
    lr: float
    weight_decay: float
    warmup_epochs: float
    exclude_norm_and_bias: bool
    origin: str
    schedule: Literal["cosine", "cosine_epoch", "constant"] = "cosine"
    final_lr: float = 0.0
    warmup_start: float = 0.0


@runtime_checkable
class HasHeads(Protocol):
    """A method's Config that can ask for a head of its own (`dual`) for views of objects."""

    @property
    def heads(self) -> Literal["shared", "dual"]:
        """Which heads there are."""
        ...


class Method(nn.Module, ABC):
    """A self-supervised method. It knows views and tensors, no files, no trainer; a ten-line loop can run it.

    A subclass is final, lies in a file of its own named as the method, and sets `METHOD = TheClass` there.
    """

    title: ClassVar[str]  # one line for lists
    paper: ClassVar[str]
    training_defaults: ClassVar[Training]
    batch_statistics: ClassVar[Literal["groups", "run"]]  # law 4: in fixed groups (queue methods), or over the run
    crops: ClassVar[str] = "scene"  # the region policy it was published with
    needs_feature_map: ClassVar[bool] = False  # beside the pooled features
    # a frozen dataclass: its types say what each number may be, `settings.check_fields` judges them when it is made
    Config: ClassVar[type[Any]]

    @classmethod
    @abstractmethod
    def slots(cls, config: Any) -> Mapping[str, Slot]:
        """Return the views the method wants of each image, sizes for 224-pixel crops."""

    @classmethod
    @abstractmethod
    def passes(cls, config: Any) -> float:
        """Return the encoder passes a step and image: forward 1, forward and backward 3, small views by their area."""

    @classmethod
    @abstractmethod
    def resolve(cls, config: Any, *, images: int, batch_size: int) -> tuple[Any, list[str]]:
        """Return the configuration with every value decided for a data set of `images`, and what to say about it.

        Raises UserError for values that cannot work together (k larger than the dictionary, ...).
        """

    @property
    @abstractmethod
    def backbone(self) -> nn.Module:
        """Return the online backbone: what is exported and evaluated."""

    @abstractmethod
    def step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the loss of one batch of normalised views; read queues, then push into them."""

    def check_views(self, batch: Batch) -> None:
        """Raise UserError where a batch lacks views that `slots` asks for: two of a method that needs four, ..."""
        for slot, wanted in self.slots(self.config).items():
            given = len(batch.views[slot]) if slot in batch.views else 0
            if given < wanted.count:
                raise UserError(
                    f"{type(self).__name__} needs {wanted.count} views of each image in the slot {slot!r}; "
                    f"this batch has {given}"
                )

    @abstractmethod
    def after_update(self, progress: Progress) -> None:
        """Move the teachers, once, after the optimiser step `progress.step`."""
