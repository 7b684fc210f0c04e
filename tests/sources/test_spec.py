from __future__ import annotations

from pathlib import Path

import pytest

from scenewise.errors import UserError
from scenewise.sources import KINDS, Spec, open_source, parse_spec


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("photos/street", Spec("folder", "photos/street")),
        ("folder:photos", Spec("folder", "photos")),
        ("voc:/data?split=test&year=2012", Spec("voc", "/data", {"split": "test", "year": "2012"})),
        ("csv:a/b.csv?root=/photos/here&multi=1", Spec("csv", "a/b.csv", {"root": "/photos/here", "multi": "1"})),
        ("stl10:/data?split=train+unlabeled", Spec("stl10", "/data", {"split": "train+unlabeled"})),
        ("cifar100:/data?labels=coarse", Spec("cifar100", "/data", {"labels": "coarse"})),
        ("coco:/data?year=2014&classes=cat,dog", Spec("coco", "/data", {"year": "2014", "classes": "cat,dog"})),
        ("openimages:/data?classes=/m/01yrx", Spec("openimages", "/data", {"classes": "/m/01yrx"})),
        ("synthetic:2000", Spec("synthetic", "2000")),
        (r"C:\photos", Spec("folder", r"C:\photos")),
        ("folder:what?/photos", Spec("folder", "what?/photos")),
    ],
)
def test_reads_kind_path_and_options(text: str, expected: Spec) -> None:
    assert parse_spec(text) == expected


def test_a_path_that_exists_is_a_folder_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("voc:x", "a?split=test", "nokind:y"):
        Path(name).mkdir()
        assert parse_spec(name) == Spec("folder", name)
        assert parse_spec(f"folder:{name}") == Spec("folder", name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vok:/data", ["vok", "'voc'", "synthetic"]),
        ("voc:/data?splitt=test", ["splitt", "'split'", "year"]),
        ("voc:/data?split=", ["split", "no value"]),
        ("voc:/data?split=a&split=b", ["split", "twice"]),
        ("folder:/data?split=test", ["no splits", "--test-data"]),
        ("cifar10:/data?labels=coarse", ["cifar10", "labels", "split"]),
        ("imagefolder:/data?year=1", ["no options", "year"]),
        ("", ["no path"]),
        ("voc:", ["voc", "no path"]),
        ("synthetic:many", ["many", "whole number"]),
        ("synthetic:0", ["'0'"]),
        ("synthetic:5?seed=-1", ["seed", "-1"]),
        ("synthetic:5?split=tests", ["tests", "'test'", "train"]),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(text: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        open_source(text)
    for word in words:
        assert word in str(caught.value)


def test_every_kind_opens_or_names_what_is_missing(tmp_path: Path) -> None:
    for kind in KINDS:
        if kind == "synthetic":
            assert len(open_source("synthetic:3")) == 3
        else:
            with pytest.raises(UserError, match="no such"):
                open_source(f"{kind}:{tmp_path / 'missing'}")


def test_a_split_asked_of_a_source_without_splits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no splits"):
        open_source(str(tmp_path), split="test")
