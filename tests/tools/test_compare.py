"""Several subjects on the same images: what is compared to what, what is left out, and every wrong input at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scenewise.backbones import create_backbone, save_backbone
from scenewise.engine.display import Quiet
from scenewise.errors import UserError
from scenewise.evaluate.evaluation import differences
from scenewise.tools import judge
from scenewise.tools.compare import compare, load_all, published_name, size_notes
from scenewise.tools.comparison import Comparison
from scenewise.tools.judge import Terms

FIRST, SECOND, ABSENT = "random:test_resnet", "random:test_vit", "timm:resnet18"
DATA = "synthetic:60"
EXAM: Any = {"data": DATA, "protocol": "knn", "size": 32, "limit": 40}
TERMS = Terms(protocols=["knn"], size=32, limit=40)


@pytest.fixture(autouse=True)
def _no_weights_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a weights file, of another seed than the random subjects."""
    file = tmp_path_factory.mktemp("weights") / "other.safetensors"
    backbone = create_backbone("test_resnet", seed=5)
    save_backbone(file, backbone, size=32, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), method="none")
    return str(file)


@pytest.fixture(scope="module")
def found(weights: str) -> Comparison:
    return compare([FIRST, SECOND, weights], **EXAM)


def test_every_subject_is_compared_to_the_first(found: Comparison, weights: str) -> None:
    assert [evaluation.subject for evaluation in found.evaluations] == [FIRST, SECOND, weights]
    assert {(item.first, item.second) for item in found.differences} == {(SECOND, FIRST), (weights, FIRST)}
    content = json.loads(json.dumps(found.to_json()))
    assert [subject["subject"] for subject in content["subjects"]] == [FIRST, SECOND, weights]
    item = content["differences"][0]
    assert item.keys() == {"first", "second", "protocol", "metric", "value", "low", "high"}
    by_subject = {subject["subject"]: subject["protocols"] for subject in content["subjects"]}
    for item in content["differences"]:
        values = [by_subject[item[side]][item["protocol"]][item["metric"]]["value"] for side in ("first", "second")]
        assert item["value"] == pytest.approx(values[0] - values[1], abs=1e-12)
        assert item["low"] <= item["high"]


def test_differences_are_those_of_the_same_images(found: Comparison) -> None:
    expected = differences(found.evaluations[1], found.evaluations[0])["knn"]
    shown = {item.metric: item.interval for item in found.differences if item.first == SECOND}
    assert shown.keys() == expected.keys()
    assert all((shown[name].low, shown[name].high) == (figure.low, figure.high) for name, figure in expected.items())


def test_what_is_said(found: Comparison, weights: str) -> None:
    said = found.to_markdown()
    assert said.startswith("| subject | knn mAP (%) |\n")
    assert [line.split(" | ")[0] for line in said.splitlines()[2:5]] == [f"| {FIRST}", f"| {SECOND}", f"| {weights}"]
    assert len(found.sentences()) == 2
    assert all(FIRST in sentence and "knn mAP" in sentence for sentence in found.sentences())
    assert "- random weights of seed 0" not in said  # not of all three
    assert f"- {FIRST}: random weights of seed 0" in said
    assert said.count("knn: k = 20") == 1
    assert "seed of a training" in said


def test_sources_are_opened_once_and_every_subject_has_its_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, bars = [], []

    class Told(Quiet):
        def bar(self, task: str, total: int | None):  # type: ignore[no-untyped-def]
            bars.append(task)
            return super().bar(task, total)

    before = judge.open_source
    monkeypatch.setattr(judge, "open_source", lambda *given, **more: opened.append(given) or before(*given, **more))
    compare([FIRST, SECOND], **EXAM, display=Told())
    assert len(opened) == 2  # the training and the test split; the whole is opened to ask for them
    assert [title for title in bars if title.startswith("evaluating")] == [
        f"evaluating {FIRST} (1 of 2)",
        f"evaluating {SECOND} (2 of 2)",
    ]


def test_missing_subjects_are_all_named_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scenewise.tools.compare.open_splits", lambda *_, **__: pytest.fail("data were opened"))
    with pytest.raises(UserError) as caught:
        compare([FIRST, ABSENT, "nowhere/run", "torchvision:resnet18"], **EXAM)
    named = [problem.partition(": subject: ")[0] for problem in caught.value.problems]
    assert named == [ABSENT, "nowhere/run", "torchvision:resnet18"]


def test_missing_subjects_can_be_left_out_and_are_named() -> None:
    found = compare([ABSENT, FIRST, SECOND], **EXAM, skip_missing=True)
    assert [evaluation.subject for evaluation in found.evaluations] == [FIRST, SECOND]
    assert found.against == FIRST
    assert found.notes[0].startswith(f"left out: {ABSENT}: ")
    assert f"{ABSENT} is left out, so the others are compared to {FIRST}" in found.notes
    assert found.to_json()["notes"] == list(found.notes)
    assert "left out: timm:resnet18" in found.to_markdown()


def test_one_subject_that_is_left_is_no_comparison_but_a_table() -> None:
    found = compare([ABSENT, FIRST], **EXAM, skip_missing=True)
    assert found.differences == ()
    assert found.to_markdown().startswith("| subject |")
    with pytest.raises(UserError, match="no subject"):
        compare([ABSENT, "nowhere"], **EXAM, skip_missing=True)


def test_only_what_is_missing_can_be_skipped() -> None:
    with pytest.raises(UserError, match="unknown name 'test_resnt'"):
        load_all([FIRST, "random:test_resnt"], TERMS, skip_missing=True)


def test_names_are_checked_all_at_once(weights: str, tmp_path: Path) -> None:
    linked = tmp_path / "linked.safetensors"
    linked.symlink_to(weights)
    with pytest.raises(UserError) as caught:
        compare([FIRST, FIRST, weights, linked], data=DATA, protocol=["kn"], against="random:test_vt", html=tmp_path)
    said = "\n".join(caught.value.problems)
    assert "Did you mean 'knn'" in said
    assert f"{FIRST!r} is named twice;" in said
    assert f"{str(linked)!r} is named twice ({weights!r} is the same)" in said
    assert "--against: unknown name 'random:test_vt'" in said
    assert "--html: cannot write" in said
    with pytest.raises(UserError, match="at least two subjects"):
        compare([FIRST], **EXAM)


def test_other_sizes_are_said(weights: str) -> None:
    alike, _ = load_all([FIRST, SECOND], TERMS, skip_missing=False)
    assert size_notes(alike) == []
    terms = Terms(protocols=["knn"])
    own, _ = load_all([FIRST, weights], terms, skip_missing=False)
    (note,) = size_notes(own)
    assert f"{weights} 32 px" in note
    assert "--size" in note


def test_every_subject_is_compared_to_published_weights_too(
    found: Comparison, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = {SECOND: "ImageNet weights"}
    monkeypatch.setattr("scenewise.tools.compare.published_name", lambda subject: published.get(subject.name))
    again = compare([FIRST, SECOND, weights], **EXAM, against=weights)
    pairs = list(dict.fromkeys((item.first, item.second) for item in again.differences))
    assert pairs == [(FIRST, weights), (SECOND, weights), (FIRST, SECOND)]
    told = [sentence for sentence in again.sentences() if f"ImageNet weights ({SECOND})" in sentence]
    assert [sentence.removeprefix("Whether ").split(" is ")[0] for sentence in told] == [FIRST, weights]
    values = {(item.first, item.second): item.interval.value for item in again.differences if item.metric == "mAP"}
    assert values[SECOND, weights] - values[FIRST, weights] == pytest.approx(-values[FIRST, SECOND], abs=1e-12)


def test_the_page_is_written_and_not_replaced_unasked(tmp_path: Path) -> None:
    html = tmp_path / "page.html"
    compare([FIRST, SECOND], **EXAM, html=html)
    text = html.read_text()
    assert f"against {FIRST}" in text
    assert "synthetic:60?seed=0&amp;split=test" in text
    with pytest.raises(UserError, match="exists; name another file"):
        compare([FIRST, SECOND], **EXAM, html=html)


def test_a_subject_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise UserError("no image can be read")

    monkeypatch.setattr("scenewise.tools.compare.judge_subject", fail)
    with pytest.raises(UserError, match=f"{FIRST}: no image can be read"):
        compare([FIRST, SECOND], **EXAM)


def test_weights_are_called_by_what_they_learnt_from() -> None:
    (subject,), _ = load_all([FIRST], TERMS, skip_missing=False)
    assert published_name(subject) is None
    for method, name in {"timm resnet50.a1_in1k": "ImageNet weights", "timm vit.openai": "published weights"}.items():
        subject.backbone.weights = type(subject.backbone.weights)(size=32, method=method)
        known = type(subject)(subject.backbone, "timm:x", 32, subject.mean, subject.std)
        assert published_name(known) == name
