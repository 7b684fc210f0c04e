from __future__ import annotations

import pickle

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenewise.sources import HasBoxes, open_source
from scenewise.sources.scene_drawing import draw
from scenewise.sources.synthetic import SyntheticSource


def _source(text: str) -> SyntheticSource:
    source = open_source(text)
    assert isinstance(source, SyntheticSource) and isinstance(source, HasBoxes)
    return source


def test_a_scene_depends_on_seed_split_and_number_alone() -> None:
    source = _source("synthetic:50")
    backwards = {index: source[index].read() for index in (30, 7, 0)}
    for other in (_source("synthetic:2000?seed=0&split=train"), pickle.loads(pickle.dumps(source))):
        for index, pixels in backwards.items():
            assert np.array_equal(other[index].read(), pixels)
            assert other[index].size == source[index].size and other[index].key == source[index].key
    np.random.seed(5)  # the global state must not matter
    cv2.setRNGSeed(5)
    assert np.array_equal(source[7].read(), backwards[7])


def test_seeds_and_splits_and_numbers_give_different_scenes() -> None:
    scenes = [_source(f"synthetic:5?seed={seed}&split={split}") for seed in (0, 1) for split in ("train", "test")]
    pixels = [np.asarray(source[index].read()).tobytes() for source in scenes for index in range(5)]
    assert len(set(pixels)) == 20
    assert len({source.fingerprint for source in scenes}) == 4


@settings(max_examples=25)
@given(seed=st.integers(0, 2**40), index=st.integers(0, 10**6), split=st.sampled_from(["train", "test"]))
def test_a_scene_keeps_its_promises(seed: int, index: int, split: str) -> None:
    source = _source(f"synthetic:{10**6 + 1}?seed={seed}&split={split}")
    record = source[index]
    pixels = record.read()
    assert isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape == (*record.size, 3)
    assert min(record.size) >= 160 and max(record.size) <= 320 and record.orientation == 1
    assert pixels.std() > 5
    instances, classes = draw(seed, split, index).instances, source.class_map(index)
    boxes, kinds = source.boxes(index)
    assert 2 <= len(boxes) <= 6
    assert sorted(set(kinds.tolist())) == np.flatnonzero(np.asarray(record.labels)).tolist()
    numbers = np.unique(instances[instances > 0])
    assert len(numbers) == len(boxes)
    assert np.array_equal(classes == 0, instances == 0)
    for number, box, kind in zip(numbers, boxes, kinds, strict=True):
        mask = instances == number
        left, top, right, bottom = box.astype(int)
        inside = mask[top:bottom, left:right]
        assert inside.sum() == mask.sum()
        assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
        assert set(classes[mask].tolist()) == {int(kind) + 1}


def test_no_object_is_hidden_or_tiny() -> None:
    source = _source("synthetic:60?seed=3")
    sides, fills = [], []
    for index in range(len(source)):
        boxes, _ = source.boxes(index)
        instances = draw(3, "train", index).instances
        sides += (boxes[:, 2:] - boxes[:, :2]).max(axis=1).tolist()
        fills += [int((instances == number).sum()) for number in range(1, len(boxes) + 1)]
    assert min(sides) >= 16 and np.median(sides) > 40
    assert min(fills) >= 60


def test_labels_are_those_of_the_records_and_every_kind_is_common() -> None:
    source = _source("synthetic:600")
    labels = source.labels()
    assert labels is not None and labels.shape == (600, 12) and labels.dtype == np.int8
    assert all(np.array_equal(np.asarray(source[index].labels), labels[index]) for index in range(0, 600, 37))
    assert len(source.classes) == 12 == len(set(source.classes))
    share = labels.mean(axis=0)
    assert share.min() > 0.1 and share.max() < 0.25
    assert set(labels.sum(axis=1).tolist()) == {1, 2, 3}


def test_colour_alone_does_not_tell_the_kind() -> None:
    """The mean colour of a kind's pixels, averaged over many scenes, is the same for all kinds within the noise."""
    colours: dict[int, list[np.ndarray]] = {kind: [] for kind in range(12)}
    for index in range(120):
        scene = draw(0, "train", index)
        for number, kind in enumerate(scene.kinds, start=1):
            colours[kind].append(scene.pixels[scene.instances == number].mean(axis=0))
    means = np.stack([np.mean(values, axis=0) for values in colours.values()])
    spread = np.stack([np.std(values, axis=0) for values in colours.values()]).mean()
    assert np.abs(means - means.mean(axis=0)).max() < spread


def test_the_split_of_the_caller_counts_unless_the_text_names_one() -> None:
    assert open_source("synthetic:5", split="test").spec == "synthetic:5?seed=0&split=test"
    assert open_source("synthetic:5?split=train", split="test").spec == "synthetic:5?seed=0&split=train"
    assert open_source("synthetic:5").splits == ("train", "test")
    with pytest.raises(IndexError):
        open_source("synthetic:5")[5]
