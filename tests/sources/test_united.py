"""Two tables of labels that do not name the same classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scenewise.sources import open_source
from scenewise.sources.united import with_common_classes
from scenewise.tools.judge import evaluate


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for number in range(24):
        pixels = generator.integers(0, 120, (24, 24, 3)) + 60 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number}.png")

    def write(name: str, rows: list[str]) -> None:
        (tmp_path / f"{name}.csv").write_text("image,labels\n" + "\n".join(rows) + "\n")

    kinds = ["zebra", "ant", "rare"]
    write("train", [f"{number}.png,{kinds[number % 2 if number else 2]}" for number in range(16)])
    write("test", [f"{number}.png,{['ant', 'new', 'zebra'][number % 3]}" for number in range(16, 24)])
    write("several", [f"{number}.png,{kinds[number % 2]}{';rare' * (number < 4)}" for number in range(16)])
    write("few", [f"{number}.png,{'ant;zebra' if number % 2 else 'ant'}" for number in range(16, 24)])
    return tmp_path


def opened(tables: Path, name: str) -> object:
    return open_source(f"csv:{tables}/{name}.csv")


@pytest.mark.parametrize(("first", "second"), [("train", "test"), ("several", "few")])
def test_each_image_keeps_its_classes_by_name(tables: Path, first: str, second: str) -> None:
    before = [open_source(f"csv:{tables}/{name}.csv") for name in (first, second)]
    after = with_common_classes(*before)
    assert after[0].classes == after[1].classes == tuple(sorted({*before[0].classes, *before[1].classes}))
    for plain, united in zip(before, after, strict=True):
        assert len(united) == len(plain)
        labels = united.labels()
        assert labels is not None
        for index in range(len(plain)):
            names = []
            for source, label in ((plain, plain[index].labels), (united, united[index].labels)):
                row = np.asarray(label)
                names.append({source.classes[place] for place in (np.flatnonzero(row > 0) if row.ndim else [int(row)])})
            assert names[0] == names[1]
            assert np.array_equal(labels[index], np.asarray(united[index].labels))


def test_sources_with_the_same_classes_are_left_as_they_are(tables: Path) -> None:
    train, other = opened(tables, "train"), opened(tables, "train")
    assert with_common_classes(train, other) == (train, other)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("train", "test", ("no positive among the training images: new", "no positive among the test images: rare")),
        ("several", "few", ("no positive among the test images: rare",)),
    ],
)
def test_a_class_that_one_part_lacks_is_left_out_and_said(
    tables: Path, first: str, second: str, said: tuple[str, ...]
) -> None:
    found = evaluate(
        "random:test_resnet",
        data=f"csv:{tables}/{first}.csv",
        test_data=f"csv:{tables}/{second}.csv",
        protocol="knn,linear",
        settings={"knn.k": 3},
        size=24,
        device="cpu",
    ).to_json()
    for words in said:
        assert any(words in note for note in found["notes"])
    assert {"knn", "linear"} == set(found["protocols"])
