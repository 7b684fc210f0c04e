"""A list of Open Images' hard photos, of several classes each, by the rules of OHMS (OAC, arXiv 2112.00319).

The authors' own list of 212,753 photos and 208 classes is not public, and their two rules alone leave more, so this is
one of its kind and not theirs: the list is kept with its hash. It needs no image, only the two tables: its first column
says what to download, and the whole is what `csv:LIST?root=OPENIMAGES` reads.
"""

from __future__ import annotations

import csv
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from jaxtyping import Bool, Int

from scenewise import keys
from scenewise.backbones.weights import write_atomically
from scenewise.errors import UserError
from scenewise.outputs import check_output
from scenewise.sources.openimages_csv import read_classes

CLASS_IMAGES = 900  # photos a class has at least (OAC's README)
IMAGE_CLASSES = 2  # classes a photo has at least (OAC's README)
LIMIT = 212_753  # photos of OHMS (OAC's README)


@dataclass(frozen=True, slots=True)
class Subset:
    """What was written: the list, how many photos and which classes it names, and its SHA-256."""

    file: Path
    images: int
    classes: tuple[str, ...]
    sha256: str


def write_subset(
    boxes: str | Path,
    classes: str | Path,
    *,
    out: str | Path,
    split: str = "train",
    classes_of: str | Path | None = None,
    class_images: int | None = None,
    image_classes: int = IMAGE_CLASSES,
    limit: int = LIMIT,
    seed: int = 0,
    overwrite: bool = False,
) -> Subset:
    """Write the photos that `hard_images` leaves of a table of boxes: a table `image,labels`, and OUT.sha256 beside it.

    boxes, classes: `oidv6-train-annotations-bbox.csv` and `class-descriptions-boxable.csv` as published; boxes around
    groups and of depictions count, as they do for the source `openimages:`. An image is `SPLIT/ID.jpg`, in the order of
    the ids; labels are names of classes, split by `;`. classes_of: a list written before, whose classes alone count: so
    a test list asks what its training list teaches. class_images: 900 by default, 1 with `classes_of`. Raises UserError
    where a table cannot be read, nothing is left, a class of the other list is, or `out` exists.
    """
    out = Path(out)
    check_output("--out", out, overwrite=overwrite)
    names = read_classes(Path(classes))
    ids, image_of, class_of = _read_pairs(Path(boxes), names)
    if classes_of is not None:
        asked = np.isin(class_of, _numbers_of(Path(classes_of), names))
        image_of, class_of = image_of[asked], class_of[asked]
    if class_images is None:
        class_images = CLASS_IMAGES if classes_of is None else 1
    kept = hard_images(
        image_of, class_of, class_images=class_images, image_classes=image_classes, limit=limit, seed=seed
    )
    if not kept.any():
        raise UserError(
            f"data: {boxes} has no images of {image_classes} or more classes with {class_images} or more images each"
        )
    labels: dict[int, list[str]] = {}
    titles = list(names.values())
    for image, number in zip(image_of[kept].tolist(), class_of[kept].tolist(), strict=True):
        labels.setdefault(image, []).append(titles[number])
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", "labels"])
    table.writerows([f"{split}/{ids[image]}.jpg", ";".join(found)] for image, found in labels.items())
    content = text.getvalue().encode()
    digest = hashlib.sha256(content).hexdigest()
    left = tuple(titles[number] for number in np.unique(class_of[kept]))
    if classes_of is not None and len(left) < len(_classes_in(Path(classes_of))):
        missing = sorted(_classes_in(Path(classes_of)) - set(left))
        raise UserError(
            f"data: {boxes} has no photo of {image_classes} or more classes for {len(missing)} classes of {classes_of} "
            f"({', '.join(missing[:10])}); lower --image-classes"
        )
    write_atomically(out, content)
    write_atomically(out.with_name(f"{out.name}.sha256"), f"{digest}  {out.name}\n".encode())
    return Subset(file=out, images=len(labels), classes=left, sha256=digest)


def _classes_in(file: Path) -> set[str]:
    """Return the names of the classes of a list; UserError where it is none."""
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            return {name for row in csv.DictReader(stream) for name in row["labels"].split(";")}
    except (OSError, UnicodeDecodeError, KeyError, AttributeError, csv.Error) as error:
        raise UserError(f"--classes-of: {file} is no list of this kind (header image,labels): {error!r}") from None


def _numbers_of(file: Path, names: dict[str, str]) -> np.ndarray:
    titles = list(names.values())
    wanted = _classes_in(file)
    if unknown := sorted(wanted - set(titles)):
        raise UserError(f"--classes-of: {file} names {unknown[0]!r}, which is not among the {len(titles)} classes")
    return np.array([number for number, title in enumerate(titles) if title in wanted], np.int64)


def hard_images(
    image_of: Int[np.ndarray, " pairs"],
    class_of: Int[np.ndarray, " pairs"],
    *,
    class_images: int = CLASS_IMAGES,
    image_classes: int = IMAGE_CLASSES,
    limit: int = LIMIT,
    seed: int = 0,
) -> Bool[np.ndarray, " pairs"]:
    """Return which of the distinct (image, class) pairs stay, numbered from 0.

    Classes of fewer than `class_images` images and images of fewer than `image_classes` classes go, in turn, until none
    does; of more than `limit` images so many are drawn, and the rules are applied again: what is left is at most
    `limit`. The two rules are the published ones (README of shlokk/object-cropping-ssl); the third is ours.
    """
    kept = _by_the_rules(image_of, class_of, np.ones(len(image_of), bool), class_images, image_classes)
    found = np.unique(image_of[kept])
    if len(found) <= limit:
        return kept
    drawn = keys.generator(seed, "openimages subset").choice(found, limit, replace=False)
    return _by_the_rules(image_of, class_of, kept & np.isin(image_of, drawn), class_images, image_classes)


def _by_the_rules(
    image_of: np.ndarray, class_of: np.ndarray, kept: np.ndarray, class_images: int, image_classes: int
) -> np.ndarray:
    while True:
        stays = kept & (np.bincount(class_of[kept], minlength=class_of.max(initial=0) + 1)[class_of] >= class_images)
        stays &= np.bincount(image_of[stays], minlength=image_of.max(initial=0) + 1)[image_of] >= image_classes
        if (stays == kept).all():
            return kept
        kept = stays


def _read_pairs(file: Path, names: dict[str, str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the ids of the images, sorted, and the distinct pairs of image and class, sorted, as numbers (pairs,)."""
    text = pa.dictionary(pa.int32(), pa.string())
    options = pa.csv.ConvertOptions(
        column_types={"ImageID": text, "LabelName": text}, include_columns=["ImageID", "LabelName"]
    )
    try:
        rows = pa.csv.read_csv(file, convert_options=options).unify_dictionaries()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"data: {file}: {' '.join(str(error).split())}; expected Open Images' table of boxes") from None
    images, codes = (rows[name].combine_chunks() for name in ("ImageID", "LabelName"))
    order = {code: number for number, code in enumerate(names)}
    unknown = [code for code in codes.dictionary.to_pylist() if code not in order]
    if unknown:
        raise UserError(f"data: {file}: LabelName {unknown[0]!r} is not among the {len(names)} classes")
    ids, rank = np.unique(np.array(images.dictionary.to_pylist(), dtype=str), return_inverse=True)
    number = np.array([order[code] for code in codes.dictionary.to_pylist()], np.int64)
    pairs = np.unique(rank[images.indices.to_numpy()] * len(names) + number[codes.indices.to_numpy()])
    return ids.tolist(), pairs // len(names), pairs % len(names)
