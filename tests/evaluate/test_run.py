"""A whole evaluation: figures, counts, notes, limits, what is left out, and every error it raises."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from rich.console import Console

from scenewise.errors import UserError
from scenewise.evaluate.evaluation import differences
from scenewise.evaluate.exam import Exam
from scenewise.evaluate.protocols import NAMES
from scenewise.evaluate.run import PROTOCOLS, evaluate_exam

QUICK = {"knn": {"k": 5}, "linear": {"iterations": 60, "epochs": None}}


def evaluate(backbone, train, test, protocols=("knn", "linear"), **more):
    judging = {"options": {name: QUICK[name] for name in protocols}} | {
        name: more.pop(name) for name in ("options", "subject", "data", "epochs", "iterations") if name in more
    }
    exam = Exam(backbone=backbone, train=train, test=test, **({"size": 8, "resamples": 50, "cache": False} | more))
    return evaluate_exam(exam, protocols=protocols, **judging)


def test_protocols_are_found_by_file_name():
    assert {"knn", "linear"} <= set(PROTOCOLS) and set(PROTOCOLS) == set(NAMES)
    assert all(line and "\n" not in line for line in PROTOCOLS.values())


def test_several_labels(backbone, make_source):
    result = evaluate(
        backbone, make_source("train", multi=True), make_source("test", 40, multi=True), subject="colours"
    )
    written = json.loads(json.dumps(result.to_json()))
    assert set(written) == {"subject", "data", "protocols", "counts", "notes"}
    assert written["subject"] == "colours" and written["data"] == "colours:train"
    names = {"mAP", "mAP/area", "mAP/11point", "AP/red", "AP/green", "AP/blue"}
    for protocol in ("knn", "linear"):
        figures = written["protocols"][protocol]
        assert set(figures) == names
        assert all(0 <= f["low"] <= f["value"] <= f["high"] <= 1 for f in figures.values())
        assert figures["mAP"]["value"] > 0.95  # the labels follow from the colours
    assert written["counts"]["train_images"] == 60 and written["counts"]["test_images"] == 40
    assert any(note.startswith("knn: k = 5") for note in written["notes"])
    assert any(note.startswith("linear: learning rate") for note in written["notes"])
    test = make_source("test", 40, multi=True)
    thin = [name for name, count in zip(test.classes, (test.labels() > 0).sum(axis=0), strict=True) if count < 20]
    said = [note for note in written["notes"] if note.startswith("AP is unsteady")]
    assert [note.endswith(": " + ", ".join(thin)) for note in said] == ([True] if thin else [])


def test_one_label(backbone, make_source):
    result = evaluate(backbone, make_source("train"), make_source("test", 40))
    names = {"top1", "accuracy/none", "accuracy/red", "accuracy/green", "accuracy/yellow"}
    assert all(set(figures) == names for figures in result.protocols.values())
    assert result.protocols["knn"]["top1"].value > 0.95


def test_tables_are_in_percent_with_intervals(backbone, make_source):
    result = evaluate(backbone, make_source("train"), make_source("test", 40), protocols=("knn",))
    figure = result.protocols["knn"]["top1"]
    shown = f"{100 * figure.value:.1f} [{100 * figure.low:.1f}, {100 * figure.high:.1f}]"
    assert f"| knn | top1 | {shown} |" in result.to_markdown()
    assert "accuracy/red" not in result.to_markdown() and "accuracy/red" in result.to_markdown(per_class=True)
    console = Console(width=100)
    with console.capture() as captured:
        console.print(result.to_table())
    assert shown in captured.get()


def test_the_labels_follow_the_images_that_could_be_read(backbone, make_source):
    clean = evaluate(backbone, make_source("train"), make_source("test", 40), protocols=("knn",))
    train, test = make_source("train", bad=range(0, 60, 7)), make_source("test", 40, bad=(0, 1, 2, 3, 4, 5, 20))
    result = evaluate(backbone, train, test, protocols=("knn",))
    assert result.protocols["knn"]["top1"].value > 0.95 and clean.protocols["knn"]["top1"].value > 0.95
    assert result.counts["test_images"] == 33 and result.counts["test_skipped"] == 7
    assert result.counts["train_images"] == 51 and sum(map(len, result.skipped.values())) == 16
    (note,) = [note for note in result.notes if note.startswith("test: ")]
    assert note.startswith("test: 7 of 40 images were unreadable and left out: 0.png (truncated), 1.png")
    assert note.endswith("and 2 more")


def test_a_limit_counts_labelled_images_and_depends_on_the_seed(backbone, make_source):
    train, test = make_source("train", multi=True), make_source("test", 40, multi=True)
    train.labels()[::2] = -1
    result = evaluate(backbone, train, test, limit=20)
    assert result.counts["train_images"] == 20 and result.counts["test_images"] == 20
    assert evaluate(backbone, train, test, limit=20).to_json() == result.to_json()
    other = evaluate(backbone, train, test, limit=20, seed=1)
    assert other.outcomes["knn"].images != result.outcomes["knn"].images
    assert evaluate(backbone, train, test, limit=1000).counts["train_images"] == 30
    with pytest.raises(UserError, match="limit: 0 leaves no image"):
        evaluate(backbone, train, test, limit=0)


def test_classes_that_cannot_be_judged_are_left_out_and_said(backbone, make_source):
    train, test = make_source("train", multi=True), make_source("test", 40, multi=True)
    train.labels()[:, 0] = 0
    result = evaluate(backbone, train, test, protocols=("knn",))
    assert "AP/red" not in result.protocols["knn"] and result.counts["classes"] == 2
    assert "left out, no positive among the training images: red" in result.notes
    train = make_source("train", multi=True)
    test.labels()[:, 2] = -1
    result = evaluate(backbone, train, test, protocols=("knn",))
    assert "AP/blue" not in result.protocols["knn"]
    assert "no figure, no positive among the test images: blue" in result.notes
    with pytest.raises(UserError, match=r"0 of 3 classes .*at least one needs .*with a lower --min-positives, or with"):
        evaluate(backbone, train, test, protocols=("knn",), min_positives=1000)
    train, test = make_source("train"), make_source("test", 40)
    with pytest.raises(UserError, match=r"0 of 4 classes .*at least two need .*with a lower --min-positives, or with"):
        evaluate(backbone, train, test, protocols=("knn",), min_positives=1000)
    train.labels()[:] = 1
    with pytest.raises(UserError, match=r"1 of 4 classes .*try with a larger --limit"):
        evaluate(backbone, train, test, protocols=("knn",), limit=30)


def test_images_of_a_class_that_is_too_rare_go_with_it(backbone, make_source):
    train, test = make_source("train"), make_source("test", 40)
    rare = int((train.labels() == 1).sum())
    train.labels()[np.flatnonzero(train.labels() == 1)[2:]] = -1  # two are left
    result = evaluate(backbone, train, test, protocols=("knn",), min_positives=3)
    assert "accuracy/red" not in result.protocols["knn"] and result.protocols["knn"]["top1"].value > 0.95
    assert result.counts["test_images"] == int((test.labels() != 1).sum()) == len(result.outcomes["knn"].images)
    assert result.counts["train_images"] == 60 - rare
    assert "left out, fewer than 3 positives among the training images: red" in result.notes


def test_a_class_without_a_test_image_stays_a_possible_answer(backbone, make_source):
    train, test = make_source("train"), make_source("test", 40)
    test.labels()[test.labels() == 2] = -1
    result = evaluate(backbone, train, test, protocols=("knn",))
    assert result.counts["classes"] == 4 and "accuracy/green" not in result.protocols["knn"]
    assert "no figure, no positive among the test images: green" in result.notes


def test_training_images_in_the_test_part_are_said_and_nothing_else_is_refused(backbone, make_source):
    train, test = make_source("train"), make_source("test", 40)
    test.colours[:10] = train.colours[:10]
    result = evaluate(backbone, train, test, protocols=("knn",))
    assert "10 of 40 test images are pixel for pixel also training images" in result.notes
    test.colours = train.colours[:40]
    with pytest.raises(UserError, match="each of the 40 test images is also a training image"):
        evaluate(backbone, train, test, protocols=("knn",))
    with pytest.raises(UserError, match="holds the images that are learnt from"):
        evaluate(backbone, train, train, protocols=("knn",))


def test_what_is_wrong_is_said_before_any_image_is_read(backbone, make_source):
    train, test = make_source("train"), make_source("test", 40)
    run = lambda **more: evaluate_exam(Exam(backbone=backbone, train=train, test=test, size=8), **more)  # noqa: E731
    with pytest.raises(UserError) as raised:
        run(protocols=["kn", "lineer", "linear"], options={"linear": {"iteration": 3, "epochs": "many"}, "knn": {}})
    assert len(raised.value.problems) == 5
    assert raised.value.problems[0].startswith("protocol: unknown name 'kn'. Did you mean 'knn'")
    assert "Did you mean 'iterations'" in str(raised.value) and "linear.epochs" in str(raised.value)
    assert "'knn' has settings but is not run" in str(raised.value)
    with pytest.raises(UserError, match="protocol: none is named"):
        run(protocols=[])
    with pytest.raises(UserError, match="test data: colours:test has several classes"):
        evaluate(backbone, train, make_source("test", multi=True), protocols=["knn"])
    with pytest.raises(UserError, match="colours:plain has no labels"):
        evaluate(backbone, make_source("plain", labelled=False), test, protocols=["knn"])
    assert train.read_count == test.read_count == 0 and backbone.calls == []


@pytest.mark.parametrize(
    ("protocol", "settings", "more", "words"),
    [
        ("knn", {"k": 61}, {}, r"knn\.k: 61 is not possible with 60 training images"),
        ("knn", {"k": 20}, {"limit": 10}, r"knn\.k: 20 is not possible with 10 training images"),
        ("knn", {}, {"min_positives": 61}, r"data: 0 of 3 classes are left to judge.*--min-positives"),
        ("knn", {}, {"resamples": 0}, r"resamples: 0 is too few"),
        ("linear", {}, {"min_positives": 61}, r"data: 0 of 3 classes are left to judge"),
        ("retrieve", {"gallery": "test"}, {"limit": 1}, r"retrieve\.gallery: 'test' needs at least 2 test images"),
        (
            "svm-lowshot",
            {"k": (60,), "grid": 0},
            {},
            r"svm-lowshot\.k: class \w+ has \d+ positives .*smaller k than 60",
        ),
        ("finetune", {}, {"limit": 1}, r"finetune: 1 training image is too few"),
        ("semi", {}, {"limit": 1}, r"semi: 1 training image is too few"),
    ],
)
def test_what_the_data_cannot_hold_is_refused_before_any_image_is_read(
    backbone, make_source, protocol, settings, more, words
):
    train, test = make_source("train", multi=True), make_source("test", 40, multi=True)
    if "limit" in more:
        for source in (train, test):
            source.labels()[:] = 1
    exam = Exam(backbone=backbone, train=train, test=test, size=8, **more)
    with pytest.raises(UserError, match=words):
        evaluate_exam(exam, protocols=[protocol], options={protocol: settings})
    assert train.read_count == test.read_count == 0 and backbone.calls == []


def test_two_subjects_are_compared_on_the_same_images(backbone, make_source):
    train, test = make_source("train"), make_source("test", 40)
    good = evaluate(backbone, train, test, protocols=("knn",))
    with torch.no_grad():
        backbone.weight.zero_()
    blind = evaluate(backbone, train, test, protocols=("knn",))
    figure = differences(good, blind)["knn"]["top1"]
    assert figure.value == pytest.approx(good.protocols["knn"]["top1"].value - blind.protocols["knn"]["top1"].value)
    assert 0 < figure.low <= figure.value <= figure.high
    with pytest.raises(UserError, match="not tested by knn on the same images"):
        differences(good, evaluate(backbone, train, make_source("other"), protocols=("knn",)))


def test_a_cached_evaluation_is_the_same(backbone, make_source):
    train, test = make_source("train"), make_source("test", 40)
    first = evaluate(backbone, train, test, cache=True)
    calls = len(backbone.calls)
    assert evaluate(backbone, train, test, cache=True).to_json() == first.to_json()
    assert len(backbone.calls) == calls


def test_the_length_reaches_what_trains_and_is_said_of_the_rest(backbone, make_source):
    train, test = make_source("train"), make_source("test", 40)
    short = evaluate(backbone, train, test, protocols=["knn", "linear"], options={"knn": {"k": 5}}, iterations=1)
    assert "knn: nothing is trained by gradient, so the length has no effect" in short.notes
    long = evaluate(backbone, train, test, protocols=["linear"], options={}, epochs=30)
    assert short.protocols["linear"] != long.protocols["linear"]
    with pytest.raises(UserError, match="both give the length"):
        evaluate(backbone, train, test, epochs=1, iterations=1)
    with pytest.raises(UserError, match=r"^iterations: 0 must be at least 1$"):
        evaluate(backbone, train, test, iterations=0)


def test_subjects_of_different_sizes_are_compared_on_the_same_images(backbone, make_source):
    train, test = make_source("train"), make_source("test", 40)
    small, large = (evaluate(backbone, train, test, protocols=("knn",), size=size) for size in (8, 16))
    assert "top1" in differences(small, large)["knn"]


def test_images_that_lack_what_a_protocol_needs_are_told(backbone, make_source):
    train, test = make_source("train", multi=True), make_source("test", 40, multi=True)
    train.labels()[:7] = -1
    assert "train: 7 of 60 images have no labels and are not used" in evaluate(backbone, train, test).notes
