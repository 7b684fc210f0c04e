"""What a method sees of a few photos in one epoch: the very views and regions a run with this configuration makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scenewise.engine.config import RunConfig
from scenewise.engine.proposed import choose_crops
from scenewise.errors import ImageError
from scenewise.methods import method_class
from scenewise.report.view_sheet import SeenPhoto
from scenewise.sources import Source
from scenewise.types import Skip
from scenewise.views.decode import decode
from scenewise.views.pipeline import make_views
from scenewise.views.policies import policy_name
from scenewise.views.slots import scale_slots

PROPOSALS = 10  # outlined on a photo, the first: those that object-aware cropping draws from


@dataclass(frozen=True, slots=True)
class Seen:
    """The photos with their views, those that cannot be read, and what to say above their sheet."""

    photos: Sequence[SeenPhoto]
    skipped: Sequence[Skip]
    heading: Sequence[str]


def see(
    config: RunConfig, source: Source, indices: Sequence[int], *, folder: Path | None = None, epoch: int = 0
) -> Seen:
    """Return what the method sees of these images in an epoch, counted from 0.

    folder: the run's, which may hold proposals of its own. Raises UserError where the proposals do not fit the images.
    """
    crops, proposed, notes = choose_crops(config.crops, config.data.proposals, source, folder=folder)
    slots = scale_slots(method_class(config.method).slots(config.method_config), config.data.size)
    photos: list[SeenPhoto] = []
    skipped: list[Skip] = []
    for index in indices:
        record = source[index]
        boxes = None if proposed is None else proposed(index)
        try:
            views, regions = make_views(
                record, policy=crops, slots=slots, seed=config.seed, epoch=epoch, proposals=boxes
            )
            photo = decode(record.read(), record.size, record.orientation).pixels
        except ImageError as error:
            skipped.append(Skip(index, record.key, str(error)))
            continue
        photos.append(
            SeenPhoto(
                index=index,
                photo=photo,
                regions=regions,
                views=views,
                proposals=np.zeros((0, 4)) if boxes is None else boxes[:PROPOSALS],
                caption=Path(record.key).name,
            )
        )
    heading = [
        f"{config.method}, crops: {policy_name(crops)} - {crops.title}",
        f"{source.spec}: {config.data.size} px, seed {config.seed}, epoch {epoch + 1}",
        *notes,
    ]
    return Seen(photos, skipped, heading)
