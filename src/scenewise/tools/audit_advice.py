"""What to use for a folder, and why: a table of rules from an audit's figures to a recommendation, nothing else."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from scenewise.engine.config import MAX_SKIPPED
from scenewise.engine.proposed import LABELS
from scenewise.engine.skipped import allowed_skips
from scenewise.methods import method_class
from scenewise.views.slots import full_views
from scenewise.wording import counted

SIZES = (32, 64, 96, 112, 128, 160, 192, 224)  # those of CIFAR, Tiny ImageNet and STL-10, our runs', the papers' 224
BATCH = 256  # images: what the published learning rates are given for
LEAST_BATCH = 32
STEPS_AN_EPOCH = 20  # at least, ours: a cosine schedule and a queue turn over with steps, not with epochs
STEPS = 39_000  # of 200 epochs of CIFAR at batch 256: the shortest published runs of the methods here
EPOCHS = (200, 800)  # the papers' usual number and their longest (COCO)
SEVERAL = 2.0  # objects an image: the condition on the images of object-aware cropping's OpenImages subset
# One positive pair in twenty is false; below that there is little to repair. Ours: no paper gives a limit. Random crops
# of labelled photos of VOC and COCO miss in 7 and 8 of 100 pairs.
RARE = 0.05
HALVED = 0.5  # what object-aware crops must leave of the missed pairs to be worth their proposals, ours
MOST_FALLBACKS = 0.5  # of a policy's pairs: beyond it is another policy than its name says
OBJECT_CROPS = ("object", "overlap")  # the policies that their papers propose; the others are their ablations
RUN_BYTES = 320_000_000  # measured: a run folder of MoCo v2 on a ResNet-50, checkpoint and exported backbone
PROPOSAL_BYTES = 20_000  # at most, an image: 1,000 boxes of four int32 and a float32
# seconds of a core, a photo: selective search at its defaults on an AMD EPYC (Zen 4), two training runs beside it
PROPOSE_SECONDS = 0.14
SCRATCH = 100_000  # images: the scene methods were published from scratch on COCO's 118,000 and more


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """The figures that the rules look at.

    images: how many can be used; unreadable: how many more there are, those of a sample scaled up. size: pixels of a
    view that the user wants, None: to be chosen. short_side: pixels that three quarters of the images reach. objects:
    mean number an image by labels, None without labels: proposals do not count objects. missed: policy -> share of view
    pairs WITHOUT a common object, where known. fallbacks: policy -> share of the pairs that it could not cut as its
    name says. decode_seconds, view_seconds: of one image on one core: reading it, making one view of it. proposals: how
    the user named those to cut by, None where nobody did. packed: whether they came with the images, and need no name.
    options: policy -> what a command has to be told of its settings.
    """

    data: str
    images: int
    size: int | None
    short_side: float
    objects: float | None
    missed: Mapping[str, float]
    fallbacks: Mapping[str, float]
    decode_seconds: float
    view_seconds: float
    proposals: str | None
    packed: bool = False
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unreadable: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Recommendation:
    """What to use. reading_core_hours: reading and cropping of the whole run on one core; the encoder is not in it."""

    method: str
    crops: str
    size: int
    batch_size: int
    epochs: int
    disk_bytes: int
    reading_core_hours: float
    reasons: tuple[str, ...]
    commands: tuple[str, ...]


def recommend(facts: Facts) -> Recommendation:
    """Return what to use for images with these figures, each choice with its reason."""
    size, why_size = (
        choose_size(facts.short_side) if facts.size is None else (facts.size, f"size {facts.size}: asked for")
    )
    crops, why_crops = choose_crops(facts)
    method, why_method = choose_method(facts, crops=crops)
    batch_size, why_batch = choose_batch(facts)
    epochs, why_epochs = choose_epochs(facts, batch_size=batch_size)
    disk, why_disk = expected_disk(facts, proposing=proposes(facts, crops))
    hours, why_hours = expected_reading(facts, method=method, epochs=epochs, proposing=proposes(facts, crops))
    reasons = [why_method, why_crops, why_size, why_batch, why_epochs, why_disk, why_hours]
    if facts.images < 2:
        reasons.insert(
            0, f"{counted(facts.images, 'image')} can be read, and a batch is two at least: nothing to train on"
        )
    if allowance(facts) is not None:
        reasons.insert(
            0,
            f"{facts.unreadable:,} of {facts.images + facts.unreadable:,} images cannot be read, more than a run "
            f"leaves out unless data.max_skipped allows it ({MAX_SKIPPED:.0%} by default): mend those you need",
        )
    if 2 <= facts.images < SCRATCH:
        reasons.append(
            f"--init: {facts.images:,} images are fewer than the methods for scenes were published on from scratch "
            "(COCO, 118,000): starting from existing weights, --init timm:resnet50, is the way to beat those"
        )
    return Recommendation(
        method=method,
        crops=crops,
        size=size,
        batch_size=batch_size,
        epochs=epochs,
        disk_bytes=disk,
        reading_core_hours=hours,
        reasons=tuple(reasons),
        commands=commands(facts, method=method, crops=crops, size=size, batch_size=batch_size, epochs=epochs),
    )


def allowance(facts: Facts) -> float | None:
    """Return the `data.max_skipped` that a run on these images needs, in whole percent; None: the usual will do."""
    everything = facts.images + facts.unreadable
    if facts.unreadable <= allowed_skips(MAX_SKIPPED, everything):
        return None
    return math.ceil(100 * facts.unreadable / everything) / 100


def choose_size(short_side: float) -> tuple[int, str]:
    """Return the largest usual size under the short side (pixels) that three quarters of the images reach, and why."""
    size = max((size for size in SIZES if size <= short_side), default=SIZES[0])
    most = " (the papers' size)" if size == SIZES[-1] else ""
    larger = "larger views would be enlarged pixels" if short_side >= size else "so these are enlarged pixels already"
    return size, (
        f"size {size}{most}: three quarters of the images have a short side of {short_side:.0f} px or more; {larger}"
    )


def choose_crops(facts: Facts) -> tuple[str, str]:
    """Return the region policy, and why: object-aware crops where they repair enough pairs without a common object."""
    scene = facts.missed.get("scene")
    if scene is None:
        return "scene", "crops scene: no objects are known, so nothing says that random crops miss them"
    said = f"two random crops have no object in common in {scene:.1%} of the pairs"
    if scene < RARE:
        return "scene", f"crops scene: {said}: there is little to repair (under {RARE:.1%})"
    possible = [name for name in OBJECT_CROPS if name in facts.missed]
    if not possible:
        return "scene", (
            f"crops scene, until there are proposals: {said}; object-aware crops may repair it: make proposals, audit "
            "again with them, and compare"
        )
    measured = {name: facts.missed[name] for name in possible if facts.fallbacks[name] <= MOST_FALLBACKS}
    if not measured:
        listed = " and ".join(possible)
        return "scene", f"crops scene: {said}, but for {listed} most photos lack (large enough) objects"
    left = [
        f"{name} left out: most photos lack (large enough) objects for it" for name in possible if name not in measured
    ]
    best = min(measured, key=lambda name: measured[name])
    if measured[best] > HALVED * scene:
        return "scene", (
            f"crops scene: {said}, and object-aware crops by these proposals do not halve that (best: {best}, "
            f"{measured[best]:.1%}{''.join('; ' + each for each in left)})"
        )
    paper = "UniVIP" if best == "overlap" else "object-aware cropping"
    return (
        best,
        f"crops {best} ({paper}): {said}, with these in {measured[best]:.1%}{''.join('; ' + each for each in left)}",
    )


def choose_method(facts: Facts, *, crops: str) -> tuple[str, str]:
    """Return the method, and why: the published setting nearest to the images.

    MSVQ is not among them, though it was published on small pictures, ahead of ReSSL, BYOL and MoCo v2: those show one
    object each, and on photos of scenes at 64 px it was behind MoCo v2 (docs/results/study-scenes-small.md).
    """
    if crops == "overlap":
        return "univip", "method univip: it was made for these crops (COCO, linear ImageNet 60.2 against BYOL's 57.8)"
    if crops == "object":
        return "mocov2", "method mocov2: the one these crops were published with (OpenImages subset: 49.8 to 58.6 mAP)"
    if facts.objects is not None and facts.objects < SEVERAL:
        return "mocov2", f"method mocov2: {facts.objects:.1f} objects an image; the methods for scenes are for several"
    count = "how many objects an image has is not known" if facts.objects is None else f"{facts.objects:.1f} an image"
    return "mls", (
        f"method mls: {count}; it takes several objects in a crop for several labels, at MoCo v2's cost (published on "
        "COCO ahead of it; level with it in our runs on 5,415 photos at 64 px)"
    )


def choose_batch(facts: Facts) -> tuple[int, str]:
    """Return the batch size, and why."""
    batch = BATCH
    while batch > LEAST_BATCH and facts.images < STEPS_AN_EPOCH * batch:
        batch //= 2
    if facts.images < batch:
        return max(2, facts.images), f"batch {max(2, facts.images)}: all there are"
    if batch == BATCH:
        return batch, f"batch {BATCH}: what the published learning rates are given for"
    return batch, f"batch {batch}: at {BATCH} an epoch of {facts.images:,} images has fewer than {STEPS_AN_EPOCH} steps"


def choose_epochs(facts: Facts, *, batch_size: int) -> tuple[int, str]:
    """Return the number of epochs, and why."""
    wanted = math.ceil(STEPS / max(1, facts.images // batch_size))
    epochs = min(max(wanted, EPOCHS[0]), EPOCHS[1])
    if epochs == EPOCHS[0]:
        return epochs, f"epochs {epochs}: the papers' usual number"
    most = f", though no more than {EPOCHS[1]}, the papers' longest" if wanted > EPOCHS[1] else ""
    return epochs, f"epochs {epochs}: as many steps as the shortest published runs have ({STEPS:,}){most}"


def proposes(facts: Facts, crops: str) -> bool:
    """Return whether proposals are to be made: for the crops, or to find out which; labelled boxes are nobody's."""
    known = facts.proposals is not None and facts.proposals != LABELS
    return not known and not facts.packed and (crops != "scene" or facts.missed.get("scene", 0) >= RARE)


def expected_disk(facts: Facts, *, proposing: bool) -> tuple[int, str]:
    """Return the bytes that the commands will add to the disk, and what that rests on."""
    proposals = facts.images * PROPOSAL_BYTES if proposing else 0
    said = f", and at most {shown_bytes(proposals)} of proposals" if proposals else ""
    return RUN_BYTES + proposals, (
        f"disk {shown_bytes(RUN_BYTES + proposals)}: a run folder of a ResNet-50 (measured, MoCo v2: checkpoint and "
        f"backbone){said}; the photos are not copied"
    )


def expected_reading(facts: Facts, *, method: str, epochs: int, proposing: bool) -> tuple[float, str]:
    """Return the core-hours of reading and cropping, and what they rest on; small views count by their area."""
    kind = method_class(method)
    views = full_views(kind.slots(kind.Config()))
    hours = facts.images * epochs * (facts.decode_seconds + views * facts.view_seconds) / 3600
    proposals = facts.images * PROPOSE_SECONDS / 3600
    before = f"{shown_hours(proposals)} of making proposals ({PROPOSE_SECONDS} s a photo, measured), and "
    return hours, (
        f"time: {before if proposing else ''}{shown_hours(hours)} of reading and cropping for {views:.3g} full "
        "views an image and epoch, from the times measured here (divide by the number of workers); the encoder's time "
        "depends on the device and is not in it: `scenewise pretrain` shows it after the first steps"
    )


def shown_hours(hours: float) -> str:
    """Return the time of one core as a person reads it."""
    return f"{hours:,.1f} core-hours" if hours >= 1 else counted(math.ceil(60 * hours), "core-minute")


def commands(facts: Facts, *, method: str, crops: str, size: int, batch_size: int, epochs: int) -> tuple[str, ...]:
    """Return the commands that do what is recommended, ready for a shell: labelled boxes are nobody's proposals."""
    data = shlex.quote(facts.data)
    known = facts.proposals is not None and facts.proposals != LABELS
    file = shlex.quote(facts.proposals) if facts.proposals is not None and known else "proposals.arrow"
    named = "" if facts.packed else f" --proposals {file}"
    cut = "" if crops == "scene" else f" --crops {crops}{named}"
    share = allowance(facts)
    more = [*facts.options.get(crops, ()), *([] if share is None else [f"--set data.max_skipped={share}"])]
    cut = " ".join([cut, *more])
    lines = [
        f"scenewise pretrain {data} --method {method}{cut} --size {size} --batch-size {batch_size} --epochs {epochs} "
        "--out RUN"
    ]
    if proposes(facts, crops):
        again = " ".join([f"scenewise audit {data} --proposals {file}", *all_options(facts)])
        lines = [f"scenewise propose {data} --out {file}", again, *lines]
    return tuple(lines)


def all_options(facts: Facts) -> tuple[str, ...]:
    """Return what a command has to be told of the settings of any policy, each once."""
    return tuple(dict.fromkeys(option for options in facts.options.values() for option in options))


def shown_bytes(count: float | int) -> str:
    """Return a number of bytes as people read it: 320 MB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
