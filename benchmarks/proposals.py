"""Object proposals on labelled photos: time and recall of every generator, beside OpenCV's selective search.

    python benchmarks/proposals.py --data voc:ROOT?split=val [--images 300] [--bing-model FOLDER] [--json FILE]

Recall is the share of labelled boxes that one of an image's first 10, 100 or 1000 boxes hits with an IoU of 0.5, over
all labelled boxes of the images; the mean best IoU is of the first 1000. All boxes pass the filter of the proposal file
(near copies dropped), OpenCV's in OpenCV's order too. Time is processor time of this process, single-threaded, a mean
over images; the contestants take turns on every photo, because on a shared machine only ratios count. Ours include our
order and the filter, OpenCV's is its call alone. Nothing is fitted; choose settings on a train split, judge on val.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from scenewise import geometry, keys
from scenewise.proposals.generators import Generator, make_generator
from scenewise.proposals.kept import keep
from scenewise.sources import open_source
from scenewise.sources.base import HasBoxes
from scenewise.views.decode import decode

REFERENCE = "OpenCV fast, full image, its order"
HIT = 0.5
TOPS = (10, 100, 1000)
Proposer = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # pixels, chance -> (N, 4) int32, best first


class Photo(NamedTuple):
    pixels: np.ndarray
    labelled: torch.Tensor  # (objects, 4) float64


def photos(spec: str, count: int) -> list[Photo]:
    """Return so many photos that have labelled boxes, evenly spread over the source."""
    source = open_source(spec)
    if not isinstance(source, HasBoxes):
        raise SystemExit(f"--data: {spec} has no labelled boxes")
    labelled = [index for index in range(len(source)) if len(source.boxes(index)[0])]
    chosen = np.linspace(0, len(labelled) - 1, min(count, len(labelled))).round().astype(int)
    found = []
    for index in (labelled[place] for place in chosen):
        record = source[index]
        pixels = decode(record.read(), record.size, record.orientation).pixels
        found.append(Photo(pixels, torch.from_numpy(source.boxes(index)[0].astype(np.float64))))
    return found


def opencv_fast(pixels: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """Return the boxes of OpenCV's own fast mode as they come."""
    del chance
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    search.switchToSelectiveSearchFast()
    found = search.process()
    return np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1)


def as_stored(generator: Generator) -> Proposer:
    """Return what a proposal file would hold of the generator's boxes."""

    def proposer(pixels: np.ndarray, chance: np.random.Generator) -> np.ndarray:
        return keep(*generator(pixels, chance), pixels.shape[:2])[0]

    return proposer


def contestants(bing_model: Path | None, like: Path | None) -> dict[str, Proposer]:
    """Return what is compared, by name."""
    searches = (("light", None), ("light", 224), ("light", 192), ("light", 160), ("fast", None), ("fast", 160))
    chosen: dict[str, Proposer] = {REFERENCE: opencv_fast}
    for mode, side in (*searches, ("fast", 128), ("single", None)):
        where = "full image" if side is None else f"{side} px"
        search = make_generator("selective-search", mode=mode, working_size=side)
        chosen[f"selective search {mode}, {where}"] = as_stored(search)
    if bing_model is not None:
        chosen["bing (trained on VOC 2007)"] = as_stored(make_generator("bing", bing_model=bing_model))
    if like is not None:
        chosen["random, sizes of a file"] = as_stored(make_generator("random", like=like))
    chosen["random"] = as_stored(make_generator("random"))
    chosen["grid"] = as_stored(make_generator("grid"))
    return chosen


def measure(data: list[Photo], proposers: dict[str, Proposer]) -> dict[str, dict[str, float]]:
    """Return name -> milliseconds an image, ratio of speed to the reference, recalls, mean best IoU, boxes an image."""
    seconds = dict.fromkeys(proposers, 0.0)
    counts = dict.fromkeys(proposers, 0)
    best: dict[str, list[np.ndarray]] = {name: [] for name in proposers}  # (objects, tops) IoU of the best box
    for proposer in proposers.values():
        proposer(data[0].pixels, keys.generator(0, "warm"))
    for number, photo in enumerate(data):
        for name, proposer in proposers.items():
            start = time.process_time()
            boxes = proposer(photo.pixels, keys.generator(0, "proposals", number))
            seconds[name] += time.process_time() - start
            kept, _ = keep(boxes, None, photo.pixels.shape[:2])
            overlap = geometry.iou(photo.labelled, torch.from_numpy(kept.astype(np.float64))).numpy()
            best[name].append(np.stack([overlap[:, :top].max(axis=1, initial=0) for top in TOPS], axis=1))
            counts[name] += len(kept)
    results = {}
    for name in proposers:
        objects = np.concatenate(best[name])
        hits = dict(zip([f"recall@{top}" for top in TOPS], (objects >= HIT).mean(axis=0).tolist(), strict=True))
        results[name] = {
            "milliseconds": 1000 * seconds[name] / len(data),
            "speed": seconds[REFERENCE] / seconds[name],
            **hits,
            "mean_best_iou": float(objects[:, -1].mean()),
            "boxes": counts[name] / len(data),
        }
    return results


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--bing-model", type=Path)
    parser.add_argument("--like", type=Path, help="a proposal file whose box sizes the random boxes take")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)

    data = photos(options.data, options.images)
    sides = [min(photo.pixels.shape[:2]) for photo in data]
    print(f"{options.data}: {len(data)} photos, {sum(len(photo.labelled) for photo in data)} labelled boxes, ", end="")
    print(f"shorter side {min(sides)} to {max(sides)} px (median {np.median(sides):.0f}), OpenCV {cv2.__version__}")
    results = measure(data, contestants(options.bing_model, options.like))
    print(f"{'':36} {'ms':>7} {'speed':>8} {'@10':>6} {'@100':>6} {'@1000':>6} {'IoU':>6} {'boxes':>6}")
    for name, figures in results.items():
        recalls = " ".join(f"{100 * figures[f'recall@{top}']:6.1f}" for top in TOPS)
        print(f"{name:36} {figures['milliseconds']:7.1f} {figures['speed']:6.1f} x {recalls}", end=" ")
        print(f"{100 * figures['mean_best_iou']:6.1f} {figures['boxes']:6.0f}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
