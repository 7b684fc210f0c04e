"""Crops of objects against crops of scenes, under MoCo v2, MLS, BYOL and UniVIP, at equal encoder passes.

Data, classes, size, length and rates are those of scenes_small.py. Two controls (papers on object-aware crops name
both): random boxes of the proposals' sizes, and scene crops of at least 0.4 of the photo, whose pairs overlap more than
those of object crops do (mean IoU 0.59 against 0.47; plain scene crops 0.45). And one variation: an object's window
is at least as large as a view, which is 0.29 of these photos' short side, as in OpenImages, and 0.47 of COCO's; with
0.29, 0.47 and 0.75 of it 41, 52 and 87 of 100 pairs have a labelled object in common (scene crops: 93). The arms of
scenes_small.py and two others have two seeds, the rest one.

    SCENEWISE_DATA=DATA scenewise study studies/objects_small.py --out STUDY
"""

from __future__ import annotations

from dataclasses import replace

from scenes_small import LARGER, NOTHING, SEEDS, Grid, on_photos

from scenewise.studies import Arm, Settings, Study

WINDOWS = (0.47, 0.75)


def arms() -> tuple[Arm, ...]:
    """Return the arms, those that decide the most first."""
    once, twice = Grid(seeds=(0,), tries=False), Grid(seeds=SEEDS[:2], tries=False)
    known = {arm.label: arm for arm in twice.headline()}
    moco, mls, byol = "MoCo v2", "MLS", "BYOL"

    def cut(method: str, name: str, kind: str, crops: str, settings: Settings = NOTHING, *, grid: Grid = once) -> Arm:
        arm = grid.arm(f"{method}, {kind}", name, method, settings)
        return replace(arm, crops=crops, proposals="objects")

    return (
        known["random init"],
        known[moco],
        known[mls],
        known[f"{moco}, object crops"],
        known[f"{moco}, random boxes"],
        twice.arm(f"{moco}, larger crops", "mocov2", moco, LARGER),
        known[byol],
        known["UniVIP"],
        cut(byol, "byol", "object crops", "object"),
        cut(mls, "mls", "object crops", "object"),
        cut(moco, "mocov2", "object and scene crops", "object-scene"),
        cut(moco, "mocov2", "overlapping crops", "overlap", grid=twice),
        cut(moco, "mocov2", "moved object crops", "object-shift"),
        cut(byol, "byol", "overlapping crops", "overlap"),
        cut(mls, "mls", "overlapping crops", "overlap"),
        cut(byol, "byol", "object and scene crops", "object-scene"),
        cut(mls, "mls", "object and scene crops", "object-scene"),
        cut(byol, "byol", "moved object crops", "object-shift"),
        cut(mls, "mls", "moved object crops", "object-shift"),
        *(
            cut(moco, "mocov2", f"object crops, windows of {least}", "object", {"crops.min_window": least})
            for least in WINDOWS
        ),
    )


def study() -> Study:
    """Return the study on the photos that SCENEWISE_DATA names."""
    return on_photos("Crops of objects, small", arms())


STUDY = study()
