"""A study before anything runs: what is derived of it, and everything that can be wrong with it."""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from scenewise.errors import UserError
from scenewise.evaluate.intervals import Figure
from scenewise.methods import method_class, method_names
from scenewise.studies import Arm, Boxes, Split, Study, every, rates
from scenewise.tools.study import study
from scenewise.tools.study_devices import Pace
from scenewise.tools.study_file import load_study
from scenewise.tools.study_plan import StudyPlan, described, epochs_of, flat, plan_study, slug
from scenewise.tools.study_results import ONE_SEED, _pairs_planned, command_line, verdict, with_seeds

STUDIES = Path(__file__).parents[2] / "studies"
TEST = Split(train="csv:train.csv", test="csv:test.csv")


def a_study(*arms: Arm, **changed: Any) -> Study:
    study = Study(
        name="Plan",
        data="photos",
        size=32,
        test_on=TEST,
        choose_on=Split(train="csv:train.csv", test="csv:val.csv"),
        arms=arms,
        passes=24.0,
        settings={"backbone.name": "test_resnet"},
    )
    return replace(study, **changed)


def planned(study: Study) -> StudyPlan:
    return plan_study(study, data="photos", boxes=lambda name: Path(f"{name}.arrow"))


def problems(study: Study) -> str:
    with pytest.raises(UserError) as caught:
        planned(study)
    return "\n".join(caught.value.problems)


@given(budget=st.floats(4.0, 2000.0), method=st.sampled_from(method_names()))
def test_the_epochs_are_the_nearest_to_the_budget(budget: float, method: str) -> None:
    cost = method_class(method).passes(method_class(method).Config())
    if budget < cost:
        with pytest.raises(UserError, match="less than the"):
            epochs_of(budget, cost)
        return
    epochs = epochs_of(budget, cost)
    assert epochs >= 1
    assert all(abs(epochs * cost - budget) <= abs(other * cost - budget) + 1e-9 for other in (epochs - 1, epochs + 1))


def test_settings_go_from_the_study_over_the_arm_to_what_is_tried() -> None:
    arm = Arm(
        label="S2R2 wide",
        method="s2r2",
        settings={"method": {"width": 16}, "optimiser.lr": 1.0},
        tries=every({"optimiser.lr": (0.1, 0.2), "method.views": (2, 4)}),
        seeds=(3, 4),
    )
    plan = planned(a_study(arm, settings={"optimiser.lr": 9.0, "engine.batch_size": 8}))
    (only,) = plan.arms
    assert [variant.epochs for variant in only.variants] == [4, 2, 4, 2]  # 6 passes of 2 views, 12 of 4
    assert [job.name for job in only.tried()] == [
        f"s2r2-wide-lr-{lr}-views-{views}-seed-3" for lr in (0.1, 0.2) for views in (2, 4)
    ]
    tree = only.final(3)[1].tree
    assert tree is not None
    assert (tree["seed"], tree["optimiser"]["lr"], tree["method"]) == (
        4,
        0.2,
        {"name": "s2r2", "width": 16, "views": 4},
    )
    assert tree["engine"] == {"batch_size": 8, "epochs": 2}
    assert any("12 encoder passes" in line and "a budget of 24: 2 epochs, 24 passes" in line for line in plan.lines())
    assert "--set" in command_line(only.final(3)[1], plan.exam("test"))


def test_boxes_of_the_study_are_files_of_its_folder() -> None:
    arms = (
        Arm(label="a", method="mocov2", crops="object", proposals="ours"),
        Arm(label="b", method="mocov2", crops="object", proposals="theirs.arrow"),
    )
    plan = planned(a_study(*arms, boxes={"ours": Boxes()}))
    found = [variant.tree for arm in plan.arms for variant in arm.variants]
    assert [tree["data"]["proposals"] for tree in found if tree] == ["ours.arrow", "theirs.arrow"]


@pytest.mark.parametrize(
    ("arms", "changed", "said"),
    [
        ([Arm(label="a", method="mocov")], {}, r"a: method: unknown name 'mocov'. Did you mean 'mocov2'?"),
        ([Arm(label="a", method="byol", control="b")], {}, "a: control: unknown name 'b'"),
        ([Arm(label="a", method="byol", control="a")], {}, "a: control: unknown name 'a'"),
        (
            [Arm(label="a", method="byol")],
            {"passes": 7.0},
            "a: passes: the budget of 7 encoder passes an image is less",
        ),
        ([Arm(label="a", method="byol")], {"passes": -1.0}, "passes: -1.0 must be above 0"),
        ([Arm(label="a", method="byol", settings={"method.hiden": 3})], {}, "Did you mean 'method.hidden'?"),
        ([Arm(label="a", method="byol", settings={"engine.epochs": 3})], {}, "engine.epochs: is said by Study.passes"),
        ([Arm(label="a", method="byol", settings={"seed": 3})], {}, "seed: is said by Arm.seeds"),
        ([Arm(label="a", method="byol", settings={"data": {"source": "x"}})], {}, "data.source: is said by Study.data"),
        ([Arm(label="a", method="byol", settings={"data.size": 64})], {}, "data.size: 64 is not the study's size 32"),
        ([Arm(label="a", method="byol", settings={"method.name": "mls"})], {}, "'mls' is not the arm's method 'byol'"),
        ([Arm(label="a", method="byol", seeds=(0, 0))], {}, "a: seeds: (0, 0) must be different"),
        ([Arm(label="a", method="byol", seeds=())], {}, "a: seeds: () must be different"),
        ([Arm(label="a", method="byol", tries=rates(1.0))], {"choose_on": None}, "the test split must not be used"),
        ([Arm(label="a", method="byol")], {"choose_on": TEST}, "is the test split, which nothing may be chosen on"),
        ([Arm(label="a", method="byol")], {"choose_by": "svm"}, "choose_by: unknown name 'svm'"),
        ([Arm(label="a", method="byol")], {"protocols": ("kn",)}, "Did you mean 'knn'?"),
        ([Arm(label="a", method="byol")], {"boxes": {"r": Boxes(like="s")}}, "boxes 'r': like: unknown name 's'"),
        ([Arm(label="a")], {}, "a: method: without one, `init` says what is judged"),
        ([Arm(label="a", init="random:resnet18", crops="object")], {}, "a: crops: has no effect without a method"),
        ([Arm(label="a", method="byol"), Arm(label="a", method="byol")], {}, "a: two arms have this label"),
        ([Arm(label="a 1", method="byol"), Arm(label="A/1", method="byol")], {}, "would be called 'a-1'"),
        ([Arm(label="…", method="byol")], {}, "give one with a letter"),
        ([], {}, "arms: there is none"),
        ([Arm(label="a" * 300, method="byol")], {}, "label: 300 characters; at most 150"),
    ],
)
def test_what_is_wrong_is_named(arms: list[Arm], changed: dict[str, Any], said: str) -> None:
    assert said in problems(a_study(*arms, **changed))


WRONG_TYPES = """
from dataclasses import replace
from scenewise.studies import Arm, Split, Study
from scenewise.tools.study_check import study_problems

one = Arm(label="a", method="byol")
study = Study(name="s", data="photos", size=32, test_on=Split(train="folder:a", test="folder:b"), arms=(one,), passes=8)
assert study_problems(study) == [], "whole numbers are numbers"
assert study_problems(replace(study, arms=[replace(one, seeds=[0, 1])], data=["a", "b"])) == [], "lists do for tuples"
for changed, said in (
    ({"passes": "8"}, "passes: '8' must be a number"),
    ({"passes": float("nan")}, "passes: nan must be a finite number"),
    ({"passes": float("inf")}, "passes: inf must be a finite number"),
    ({"test_on": "voc:x"}, "test_on: 'voc:x' must be"),
    ({"test_on": Split(train="a", test=3)}, "test: 3 must be text"),
    ({"name": 3}, "name: 3 must be text"),
    ({"arms": one}, "arms: Arm(label='a'"),
    ({"arms": (replace(one, label=7),)}, "label: 7 must be text"),
    ({"arms": (replace(one, seeds=3),)}, "a: seeds: 3 must be a list"),
    ({"arms": (replace(one, seeds=("0",)),)}, "a: seeds: '0' must be a whole number"),
    ({"arms": (replace(one, seeds=(0.5,)),)}, "a: seeds: 0.5 must be a whole number"),
    ({"arms": (replace(one, tries={"method.hidden": 3}),)}, "a: tries: "),
):
    told = study_problems(replace(study, **changed))
    assert any(said in problem for problem in told), (said, told)
"""


def test_what_is_of_another_type_is_named() -> None:
    """Alone, without the type checks of the tests: a study file of a user has none."""
    done = subprocess.run([sys.executable, "-c", WRONG_TYPES], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


def test_all_that_is_wrong_is_told_at_once() -> None:
    told = problems(a_study(Arm(label="a", method="mocov"), Arm(label="b", method="byol", control="c"), passes=1.0))
    assert "unknown name 'mocov'" in told
    assert "b: control" in told
    assert "b: passes" in told


def test_a_study_without_a_budget_has_the_epochs_of_its_settings() -> None:
    (arm,) = planned(a_study(Arm(label="a", method="byol", settings={"engine.epochs": 3}), passes=None)).arms
    assert [(variant.epochs, variant.passes) for variant in arm.variants] == [(3, 24.0)]


def test_files_that_are_no_study_are_refused_with_their_line(tmp_path: Path) -> None:
    cases = {
        "none.py": ("x = 1\n", "exports no STUDY"),
        "other.py": ("STUDY = 3\n", "a STUDY of type int"),
        "fails.py": ("\nraise KeyError('X')\n", r"fails.py, line 2: KeyError: 'X'"),
        "syntax.py": ("x = (\n", r"syntax.py, line 1: SyntaxError"),
        "wrong.py": ("from scenewise.studies import Arm\nArm(lable='x')\n", r"line 2: TypeError: "),
        "study.txt": ("", "is not a Python file"),
    }
    for name, (text, said) in cases.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=said):
            load_study(tmp_path / name)
    with pytest.raises(UserError, match="no such study file"):
        load_study(tmp_path / "missing.py")
    with pytest.raises(UserError, match="name a study file"):
        study()
    with pytest.raises(UserError, match="--out: name the study's folder"):
        study(a_study(Arm(label="a", method="byol")))
    with pytest.raises(UserError, match="leave out the study file"):
        study(table=tmp_path / "table.json", out=tmp_path)


def test_a_study_file_may_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_a_study.py").write_text("NAME = 'x'\n")
    lines = ["from neighbour_of_a_study import NAME", "from scenewise.studies import Arm, Split, Study"]
    lines.append("STUDY = Study(name=NAME, data='d', size=32, test_on=Split(train='a', test='b'), arms=())")
    (tmp_path / "study.py").write_text("\n".join(lines))
    assert load_study(tmp_path / "study.py").name == "x"


@pytest.mark.parametrize("name", ["scenes_small", "scenes_small_full", "objects_small", "cifar10_msvq"])
def test_the_studies_here_can_be_planned(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCENEWISE_DATA", raising=False)
    for module in ("scenes_small",):
        monkeypatch.delitem(__import__("sys").modules, module, raising=False)
    with pytest.raises(UserError, match="SCENEWISE_DATA: not set"):
        load_study(STUDIES / f"{name}.py")
    for part in ("voc", "scenes_extra", "cifar10"):
        (tmp_path / part).mkdir()
    monkeypatch.setenv("SCENEWISE_DATA", str(tmp_path))
    study = load_study(STUDIES / f"{name}.py")
    plan = planned(study)
    if study.passes is not None:
        costs = [(variant.passes, variant.cost) for arm in plan.arms for variant in arm.variants if variant.cost]
        assert all(abs(passes - study.passes) <= cost / 2 for passes, cost in costs if passes)
    else:
        assert {variant.epochs for arm in plan.arms for variant in arm.variants} == {200}
    labels = [arm.arm.label for arm in plan.arms]
    assert len(labels) == len(set(labels))
    assert all(arm.arm.control in (None, *labels) for arm in plan.arms)


@given(seeds=st.integers(1, 4), ends=st.tuples(st.floats(-1, 1), st.floats(-1, 1)), fixed=st.booleans())
def test_a_difference_is_decided_by_its_interval_with_no_seed_missing(
    seeds: int, ends: tuple[float, float], fixed: bool
) -> None:
    low, high = sorted(ends)
    figure = Figure((low + high) / 2, low, high)
    found = verdict(figure, seeds, fixed=fixed, planned=seeds)
    assert verdict(figure, seeds, fixed=fixed, planned=seeds + 1) not in ("better", "worse")
    if seeds == 1 and not fixed:
        assert found == ONE_SEED
    else:
        assert found == ("better" if low > 0 else "worse" if high < 0 else "not decided")


@given(
    differences=st.lists(st.floats(-1, 1), min_size=2, max_size=15),
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_seeds_widen_an_interval_by_students(differences: list[float], ends: tuple[float, float]) -> None:
    """Nothing where they agree; alone, SciPy's interval; for many seeds a little wider."""
    mean = statistics.fmean(differences)
    over_images = Figure(mean, mean - ends[0], mean + ends[1])
    found, alone = with_seeds(over_images, differences), with_seeds(Figure(mean, mean, mean), differences)
    error = statistics.stdev(differences) / len(differences) ** 0.5
    half = scipy.stats.t.ppf(0.975, min(len(differences) - 1, 10)) * error
    assert alone.high - mean == pytest.approx(half, rel=1e-3, abs=1e-12)
    assert mean - alone.low == pytest.approx(half, rel=1e-3, abs=1e-12)
    assert (found.high - mean) ** 2 == pytest.approx((alone.high - mean) ** 2 + ends[1] ** 2, rel=1e-6, abs=1e-12)
    assert (mean - found.low) ** 2 == pytest.approx((mean - alone.low) ** 2 + ends[0] ** 2, rel=1e-6, abs=1e-12)
    agreed = with_seeds(over_images, [mean] * 3)
    assert (agreed.low, agreed.high) == pytest.approx((over_images.low, over_images.high), abs=1e-9)


@pytest.mark.parametrize(
    ("own", "others", "expected"),
    [([0, 1], [0, 1, 2], 2), ([], [0, 1, 2], 3), ([0, 1], [], 2), ([], [], 1), ([0], [1], 1)],
)
def test_as_many_differences_are_planned_as_seeds_are_in_common(
    own: list[int], others: list[int], expected: int
) -> None:
    """A subject without seeds is paired with every run of the other: all of these must be there."""
    assert _pairs_planned({"seeds": own}, {"seeds": others}) == expected


@given(st.text())
def test_a_slug_is_a_plain_file_name(text: str) -> None:
    found = slug(text)
    assert set(found) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-")
    assert not found.startswith((".", "-"))
    assert slug(found) == found


def test_settings_in_words() -> None:
    assert described({"method": {"weight": 0.5, "reduction": "sum"}, "optimiser.lr": 1.0}) == (
        "weight 0.5, reduction sum, lr 1.0"
    )
    assert flat({"a": {"b": {"c": 1}}, "d.e": 2}) == {"a.b.c": 1, "d.e": 2}
    product = list(itertools.product((1, 2), "xy"))
    assert [tuple(settings.values()) for settings in every({"a": (1, 2), "b": ("x", "y")})] == product


def test_the_time_left_follows_from_what_took_how_long() -> None:
    pace = Pace()
    assert pace.left(1, 0, 1) == ""
    pace.taken[True] += [100.0, 200.0]
    assert pace.left(2, 3, 1) == ", about 0:05:00 left"
    pace.taken[False] += [20.0]
    assert pace.left(2, 3, 2) == ", about 0:03:00 left"
    assert pace.left(0, 0, 1) == ""
