"""The table of objects against an obvious one in plain Python."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from scenewise.sources.objects import GROUP, OBJECT, REGION, Objects, clip, make_table, per_image

CLASSES = ["a", "b", "c", "d"]
IMAGES = 5
ENTRY = st.tuples(
    st.integers(0, IMAGES - 1), st.integers(0, len(CLASSES) - 1), st.sampled_from([OBJECT, GROUP, REGION])
)


@given(
    st.lists(ENTRY, max_size=24),
    st.lists(st.booleans(), min_size=IMAGES, max_size=IMAGES),
    st.lists(st.integers(0, len(CLASSES) - 1), min_size=1, unique=True).map(sorted),
    st.lists(st.integers(0, IMAGES - 1), max_size=7),
)
@settings(max_examples=60)
def test_boxes_labels_and_instances_of_any_rows_and_classes(
    entries: list[tuple[int, int, int]], looked_at: list[bool], chosen: list[int], rows: list[int]
) -> None:
    where, classes, kinds = (np.array([entry[part] for entry in entries], np.int64) for part in range(3))
    boxes = np.arange(4 * len(entries), dtype=np.float64).reshape(-1, 4)
    table = make_table(
        where,
        boxes,
        classes,
        kinds,
        annotated=np.array(looked_at),
        columns={"place": per_image(where, np.arange(len(entries)), IMAGES)},
        facts={"classes": CLASSES},
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "table.arrow"
        with pa.ipc.new_file(str(file), table.schema) as writer:
            writer.write_table(table)
        objects = Objects(file, chosen)
        assert objects.classes == tuple(CLASSES[number] for number in chosen) and len(objects) == IMAGES
        expected = np.zeros((len(rows), len(chosen)), np.int8)
        for place, row in enumerate(rows):
            for column, number in enumerate(chosen):
                if (row, number, OBJECT) in entries or (row, number, GROUP) in entries:
                    expected[place, column] = 1
                elif (row, number, REGION) in entries or not looked_at[row]:
                    expected[place, column] = -1
        assert np.array_equal(objects.labels(np.array(rows, np.int64)), expected)
        even = objects.every("place", lambda place: place % 2 == 0)
        for row in range(IMAGES):
            own = [place for place, entry in enumerate(entries) if entry[0] == row and entry[1] in chosen]
            found = objects.instances(row)
            assert np.array_equal(found.boxes, boxes[own]) and found.masks is None
            assert found.classes.tolist() == [chosen.index(entries[place][1]) for place in own]
            assert found.ignored.tolist() == [entries[place][2] != OBJECT for place in own]
            assert objects.of_each("place", row).tolist() == own
            assert even[row] == all(place % 2 == 0 for place in own)
            boxed = [place for place in own if entries[place][2] != REGION]
            assert np.array_equal(objects.boxes(row)[0], boxes[boxed])
            assert objects.boxes(row)[1].tolist() == [chosen.index(entries[place][1]) for place in boxed]


@given(st.lists(st.lists(st.floats(-3, 14, width=32), min_size=4, max_size=4), min_size=1, max_size=12))
@settings(max_examples=60)
def test_clip_tells_outside_moved_and_empty(boxes: list[list[float]]) -> None:
    height, width = 10, 12
    within = clip(np.array(boxes, np.float64), np.array([[height, width]] * len(boxes)))
    for place, (left, top, right, bottom) in enumerate(boxes):
        ends = (left, width), (top, height), (right, width), (bottom, height)
        assert within.outside[place] == any(value < -1 or value > limit + 1 for value, limit in ends)
        clipped = [min(max(value, 0), limit) for value, limit in ends]
        assert within.boxes[place].tolist() == clipped
        empty = clipped[2] <= clipped[0] or clipped[3] <= clipped[1]
        assert within.empty[place] == empty
        assert within.moved[place] == (not empty and clipped != [left, top, right, bottom])
