"""Judge a backbone by a detector trained on it: what `detect` and `segment-instances` share.

Objects that are ignored: those of VOC ("difficult") are learnt like others, as in detectron2's loader; those of other
data (COCO's crowds) are no targets. In the test neither kind rewards or punishes. COCO's figures treat an ignored
object as a crowd, also VOC's difficult ones; VOC's own rule is in "AP50/voc" and "AP50/11point".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool, Int64
from torch import Tensor

from scenewise.errors import UserError
from scenewise.evaluate.detection_data import Photos, count_objects, read_photos, shown_images
from scenewise.evaluate.detection_figures import detection_statistic, joint_statistic, voc_statistic
from scenewise.evaluate.detection_matches import AREAS, Detections, Matches, Objects, Shape, match_image
from scenewise.evaluate.detection_training import Config, Lesson, detect, train_detector
from scenewise.evaluate.detection_views import Photo
from scenewise.evaluate.detectors import check_backbone
from scenewise.evaluate.exam import Exam, Need, shared_images, skip_notes
from scenewise.evaluate.labels import listed
from scenewise.evaluate.task import Outcome, measure

LEAST_SIZE = 32  # pixels: one cell of the coarsest map of a backbone


def check(exam: Exam, config: Config, *, title: str, needs: Need) -> None:
    """Raise UserError for a size, objects or a backbone that do not fit, before any image is read."""
    problems = []
    if exam.size < LEAST_SIZE:
        problems.append(f"{title}: images of size {exam.size} are too small to detect in; at least {LEAST_SIZE}")
    # the masks or the photos may leave fewer objects, never more
    (seen, learnable), (_, tested) = (count_objects(exam, part, needs) for part in ("train", "test"))
    try:
        choose_classes(exam, seen if learns_ignored(exam) else learnable, tested)
    except UserError as error:
        problems += error.problems
    try:
        check_backbone(exam.backbone, config.architecture)
    except UserError as error:
        problems += [f"{title}: {problem}" for problem in error.problems]
    if problems:
        raise UserError(*problems)


def evaluate_detector(exam: Exam, config: Config, *, title: str, masks: bool) -> Outcome:
    """Return the figures of a detector trained on the exam's training part: of boxes, and of masks as "mask/...".

    UserError when nothing can be learnt or tested.
    """
    test = read_photos(exam, "test", masks=masks, title=title)
    train = read_photos(exam, "train", masks=masks, title=title)
    notes = [*skip_notes("train", train.skipped, len(train) + len(train.skipped))]
    notes += [*skip_notes("test", test.skipped, len(test) + len(test.skipped))]
    notes += shared_images(train.digest, test.digest)
    lesson = choose_lesson(exam, train, test)
    network, how = train_detector(exam, config, train, lesson, title=title, masks=masks)
    matches = find(
        exam, test, lesson, lambda photo, image: detect(network, photo, image, masks=masks), title=title, masks=masks
    )
    outcome = outcome_of(exam, test, lesson, matches, masks=masks, notes=(*notes, *lesson.notes, how))
    skipped = {"train": train.skipped, "test": test.skipped}
    counts = exam.counts(classes=len(lesson.classes), train=len(lesson.places), test=len(test), skipped=skipped)
    objects = {
        "train_objects": lesson.objects,
        "test_objects": int(test.learnable[:, lesson.classes].sum()),
    }
    return dataclasses.replace(outcome, counts=counts | objects, skipped=skipped)


def choose_lesson(exam: Exam, train: Photos, test: Photos) -> Lesson:
    """Return which photos and classes are learnt, and what is said of the rest.

    UserError when no class has an object in enough training photos and one in a test photo.
    """
    ignored = learns_ignored(exam)
    targets = train.seen if ignored else train.learnable  # (N, C)
    known, notes = choose_classes(exam, targets, test.learnable)
    names = np.array(exam.train.classes)
    useful = targets[:, known].sum(axis=1) > 0
    if not useful.all():
        notes.append(f"{int((~useful).sum())} of {len(train)} training images have no object to learn and are left out")
    odd = int((train.seen - train.learnable)[:, known].sum())
    if odd:
        notes.append(
            f"{odd} ignored objects of the training part are {'learnt like others' if ignored else 'not learnt'}"
        )
    return Lesson(
        places=np.flatnonzero(useful),
        classes=np.flatnonzero(known),
        names=tuple(names[known].tolist()),
        ignored=ignored,
        objects=int(targets[:, known].sum()),
        notes=tuple(notes),
    )


def learns_ignored(exam: Exam) -> bool:
    """Return whether the training part's ignored objects are learnt."""
    return exam.train.spec.startswith("voc:")


def choose_classes(
    exam: Exam, targets: Int64[np.ndarray, "train classes"], asked: Int64[np.ndarray, "test classes"]
) -> tuple[Bool[np.ndarray, " classes"], list[str]]:
    """Return which classes are learnt, and what is said of the others.

    targets, asked: objects of each class to learn in each training photo, and to find in each test photo. UserError
    when no class has an object in enough training photos and one in a test photo.
    """
    names = np.array(exam.train.classes)
    known = (targets > 0).sum(axis=0) >= max(1, exam.min_positives)
    tested = asked.sum(axis=0) > 0
    notes = []
    if not known.all():
        fewer = "no object" if exam.min_positives <= 1 else f"objects in fewer than {exam.min_positives} images"
        notes.append(f"left out, {fewer} in the training part: {listed(names[~known])}")
    if (known & ~tested).any():
        notes.append(f"no figure, no object in the test part: {listed(names[known & ~tested])}")
    if not (known & tested).any():
        raise UserError("data: no class has objects to learn and objects to find", *notes)
    return known, notes


def find(
    exam: Exam,
    test: Photos,
    lesson: Lesson,
    predict: Callable[[Photo, Tensor], Detections],
    *,
    title: str,
    masks: bool,
) -> dict[Shape, list[Matches]]:
    """Return what became of the detections in each test photo, by their boxes and, with `masks`, by their masks."""
    shapes: tuple[Shape, ...] = ("box", "mask") if masks else ("box",)
    matches: dict[Shape, list[Matches]] = {shape: [] for shape in shapes}
    for done, (photo, image) in enumerate(shown_images(test, exam.workers), start=1):
        found, objects = predict(photo, image), learnt_objects(photo.objects, lesson)
        for shape in shapes:
            matches[shape].append(match_image(objects, found, classes=len(lesson.classes), shape=shape))
        if exam.progress is not None:
            exam.progress(f"{title}: test", done, len(test))
    return matches


def learnt_objects(objects: Objects, lesson: Lesson) -> Objects:
    """Return the objects of the classes that are learnt, numbered as the detector does."""
    labels = lesson.labels
    kept = np.array([place for place, number in enumerate(objects.classes.tolist()) if number in labels], np.int64)
    return Objects(
        objects.boxes[kept],
        np.array([labels[int(number)] - 1 for number in objects.classes[kept]], np.int64),
        objects.ignored[kept],
        objects.areas[kept],
        tuple(objects.masks[place] for place in kept) if objects.masks else (),
    )


def outcome_of(
    exam: Exam,
    test: Photos,
    lesson: Lesson,
    matches: Mapping[Shape, list[Matches]],
    *,
    masks: bool,
    notes: tuple[str, ...] = (),
) -> Outcome:
    """Return the figures of the matches with their intervals."""
    statistics = [detection_statistic(matches["box"], lesson.names), voc_statistic(matches["box"], lesson.names)]
    if masks:
        statistics.append(detection_statistic(matches["mask"], lesson.names, prefix="mask/"))
    return measure(
        joint_statistic(*statistics),
        test.keys,
        seed=exam.seed,
        resamples=exam.resamples,
        notes=(*notes, *_absent(matches["box"])),
    )


def _absent(matches: list[Matches]) -> list[str]:
    """Return a note for each size of object that no test photo has."""
    counts = sum(each.counts.sum(axis=1) for each in matches)  # (areas,)
    return [
        f"no AP{name[0]} and no AR{name[0]}: no object of the test part is {name} ({_range(name)})"
        for name, count in zip(AREAS, np.atleast_1d(counts), strict=True)
        if not count
    ]


def _range(name: str) -> str:
    least, most = (round(area**0.5) for area in AREAS[name])
    ends = {"small": f"at most {most} x {most}", "large": f"at least {least} x {least}"}
    return ends.get(name, f"{least} x {least} to {most} x {most}") + " pixels of the photo"
