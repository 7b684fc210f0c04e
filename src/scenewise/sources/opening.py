"""From what the user wrote to the source itself."""

from __future__ import annotations

from scenewise.errors import UserError
from scenewise.sources.base import Progress, Source
from scenewise.sources.cifar import CifarSource
from scenewise.sources.coco import CocoSource
from scenewise.sources.csv_table import CsvSource
from scenewise.sources.folder import FolderSource, ImageFolderSource
from scenewise.sources.openimages import OpenImagesSource
from scenewise.sources.shards import open_shards
from scenewise.sources.spec import parse_spec
from scenewise.sources.stl10 import Stl10Source
from scenewise.sources.synthetic import SyntheticSource
from scenewise.sources.tinyimagenet import TinyImageNetSource
from scenewise.sources.voc import VocSource
from scenewise.sources.yolo import YoloSource


def open_source(
    text: str, *, split: str | None = None, reindex: bool = False, progress: Progress | None = None
) -> Source:
    """Open the data that `text` names: a folder, or `kind:path?option=value` (see `KINDS`).

    split: used when the text itself names none. reindex: look at every file again, whatever the cache knows.
    progress: called with (what, done, total or None) while files are looked at.
    Raises UserError when the data are not there, hold no image, or their labels are wrong.
    """
    spec = parse_spec(text)
    if spec.kind in ("folder", "imagefolder", "csv") and split is not None:
        raise UserError(f"data: {spec.kind}: has no splits, but {split!r} is asked for; name the other data instead")
    match spec.kind:
        case "folder":
            return FolderSource(spec, reindex=reindex, progress=progress)
        case "imagefolder":
            return ImageFolderSource(spec, reindex=reindex, progress=progress)
        case "csv":
            return CsvSource(spec, reindex=reindex, progress=progress)
        case "voc":
            return VocSource(spec, split=split, reindex=reindex, progress=progress)
        case "coco":
            return CocoSource(spec, split=split, reindex=reindex, progress=progress)
        case "openimages":
            return OpenImagesSource(spec, split=split, reindex=reindex, progress=progress)
        case "yolo":
            return YoloSource(spec, split=split, reindex=reindex, progress=progress)
        case "tinyimagenet":
            return TinyImageNetSource(spec, split=split, reindex=reindex, progress=progress)
        case "stl10":
            return Stl10Source(spec, split=split)
        case "shards":
            return open_shards(spec, split=split, progress=progress)
        case "cifar10" | "cifar100":
            return CifarSource(spec, split=split)
        case _:
            return SyntheticSource(spec, split=split)
