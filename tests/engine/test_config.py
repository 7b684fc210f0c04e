"""The configuration: every problem at once, by name; precedence; and YAML there and back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from scenewise.api import configuration_tree
from scenewise.engine.config import build, flatten, to_tree, to_yaml
from scenewise.engine.config_tree import assign, flat_settings, merge, read_yaml
from scenewise.errors import UserError
from scenewise.methods import method_class, method_names
from scenewise.views.augmentations import AUGMENTATIONS

LEAST: dict[str, Any] = {"data": {"source": "photos"}, "method": {"name": "mls"}}


def problems(tree: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        build(tree)
    return caught.value.problems


def test_every_unknown_name_and_wrong_value_is_told_at_once_with_the_nearest_name() -> None:
    told = problems(
        {
            "data": {"source": "photos", "sise": 96},
            "method": {"name": "mls", "kk": 3, "reduction": "avarage", "temperature": 0},
            "engine": {"epochs": "many", "batchsize": 3},
            "optimizer": {"lr": 1},
            "seed": -1,
        }
    )
    text = "\n".join(told)
    for expected in (
        "data.sise: no such setting. Did you mean 'data.size'?",
        "method.kk: no such setting. Did you mean 'method.k'?",
        "method.reduction: 'avarage'",
        "'per_positive'",
        "engine.epochs: 'many'",
        "engine.batchsize: no such setting. Did you mean 'engine.batch_size'?",
        "optimizer: no such setting. Did you mean 'optimiser'?",
        "method.temperature: 0 must be more than 0",
        "seed: -1 must be a whole number, 0 or more",
    ):
        assert expected in text
    assert len(told) == 8
    assert all(len(problem.splitlines()) <= 2 for problem in told)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("data.size", 8, "at least 16 pixels"),
        ("data.max_skipped", 1.5, "0 to 1"),
        ("engine.batch_size", 1, "at least 2"),
        ("engine.epochs", -1, "0 or more"),
        ("engine.accumulate", 0, "at least 1"),
        ("engine.threads", 0, "at least 1"),
        ("engine.workers", -2, "0 or more"),
        ("engine.precision", "16", "'bf16'"),
        ("optimiser.lr", float("nan"), "finite"),
        ("optimiser.lr", float("inf"), "finite"),
        ("optimiser.lr", -0.1, "0 or more"),
        ("method.temperature", 0.0, "more than 0"),
        ("method.weight", float("nan"), "finite"),
        ("method.momentum", 1.5, "0 to 1"),
        ("method.k", -1, "0 or more"),
        ("method.k", "three", "'three' must be a whole number"),
        ("method.k", 2.5, "2.5 must be a whole number"),
        ("method.k", {"of": 3}, "a whole number"),
        ("method.logit_bias", "much", "'much' must be a number or 'calibrated'"),
        ("engine.compile", "maybe", "'maybe' must be true or false"),
        ("data.source", 3, "3 must be text"),
        ("data.mean", [0.5, 0.5], "must be a longer list"),
        ("data.mean", [0.5] * 4, "must be a shorter list"),
        ("data.mean", 0.5, "must be a list"),
        ("data.std", [0.2, 0.2, float("nan")], "nan must be a finite number"),
        ("probe.limit", 3, "at least 20"),
    ],
)
def test_a_value_outside_its_range_is_refused_with_what_is_allowed(name: str, value: object, allowed: str) -> None:
    tree = merge(LEAST)
    assign(tree, name, value)
    told = problems(tree)
    assert len(told) == 1
    assert told[0].startswith(name)
    assert allowed in told[0]


@pytest.mark.parametrize("value", [3, "mls", [1], False])
def test_a_section_that_is_no_section_is_refused(value: object) -> None:
    assert any(problem.startswith("engine: must be a section") for problem in problems({**LEAST, "engine": value}))
    assert any(problem.startswith("method: ") for problem in problems({**LEAST, "method": value}))


def test_what_sections_have_in_common_makes_no_name_near() -> None:
    (told,) = problems({"data": {"source": "photos"}, "method": {"name": "msvq", "views": 2}})
    assert told.startswith("method.views: no such setting. Known: method.variant, ")


def test_names_that_are_no_words_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("3: 4\nengine: {5: 6}\n")
    told = problems({**LEAST, **read_yaml(file)})
    assert told[0].startswith("3: no such setting")
    assert told[1].startswith("engine.5: no such setting")


def test_a_missing_method_and_source_say_what_to_write() -> None:
    told = "\n".join(problems({}))
    assert "--method" in told
    assert "data.source" in told
    assert "Did you mean 'mocov2'?" in problems({**LEAST, "method": {"name": "mocv2"}})[0]


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("method: {k: 7, width: 64, momentum: 0.9}\nengine: {epochs: 7, batch_size: 64}\nseed: 7\n")
    config = build(
        configuration_tree(
            recipe="mls-coco-400",
            config=file,
            flags={"data": "photos", "epochs": 9, "batch_size": None},
            settings={"method.width": 8, "engine": {"threads": 2}},
        )
    )
    defaults = build(LEAST)
    assert config.data.max_skipped == defaults.data.max_skipped  # defaults
    assert config.method_config.dictionary_size == 4096  # < recipe
    assert (config.method_config.k, config.seed, config.engine.batch_size) == (7, 7, 64)  # < file
    assert config.engine.epochs == 9  # < flags
    assert (config.method_config.width, config.engine.threads) == (8, 2)  # < --set


def test_another_method_drops_the_former_ones_settings() -> None:
    config = build(merge({"method": {"name": "mls", "k": 7, "width": 64}}, LEAST, {"method": {"name": "mocov2"}}))
    assert config.method_config.width == 128
    kept = build(merge({"method": {"name": "mls", "k": 7}}, LEAST, {"method": {"width": 8}}))
    assert (kept.method_config.k, kept.method_config.width) == (7, 8)


def test_another_method_drops_the_optimiser_of_the_former_but_keeps_its_own() -> None:
    recipe = {"method": {"name": "msvq"}, "optimiser": {"name": "sgd", "lr": 0.06}, "engine": {"epochs": 3}}
    config = build(merge(recipe, LEAST, {"optimiser": {"weight_decay": 0.5}, "method": {"name": "simclr"}}))
    assert (config.optimiser.name, config.optimiser.lr, config.optimiser.weight_decay) == (None, None, 0.5)
    assert config.engine.epochs == 3
    same = build(merge(recipe, LEAST | {"method": {"name": "msvq"}}, {"method": {"name": "msvq", "width": 8}}))
    assert same.optimiser.lr == 0.06


def test_settings_of_the_command_line_are_yaml_scalars() -> None:
    given = ["method.k=10", "optimiser.lr=1e-4", "backbone.init=null", "data.source=a=b", "engine.compile=true"]
    assert flat_settings(given) == {
        "method.k": 10,
        "optimiser.lr": 1e-4,
        "backbone.init": None,
        "data.source": "a=b",
        "engine.compile": True,
    }
    with pytest.raises(UserError) as caught:
        flat_settings(["method.k", "=3", "method.k=[1", "seed=1"])
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("written", [32, "32"])
def test_a_precision_may_be_written_as_a_number(written: object) -> None:
    """`--set engine.precision=32`, which the advice on losses that are not finite names, is a number in YAML."""
    (said,) = flat_settings([f"engine.precision={written!r}"]).values()
    for value in (said, written):
        assert build(merge(LEAST, {"engine": {"precision": value}})).engine.precision == "32"


def test_a_value_cannot_hold_settings() -> None:
    with pytest.raises(UserError, match="'seed' is a value"):
        configuration_tree(flags={"seed": 3}, settings={"seed": 3, "seed.of": 3})


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a: [1", "not YAML"), (b"\xff\xfe\x00", "not YAML"), (b"- 1", "must hold sections"), (None, "cannot read")],
)
def test_a_configuration_file_that_cannot_be_read(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "run.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_yaml(file)


def test_yaml_cannot_make_objects(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"data: !!python/object/apply:pathlib.Path.touch [{tmp_path / 'made'}]\n")
    with pytest.raises(UserError):
        read_yaml(file)
    assert not (tmp_path / "made").exists()


numbers = st.floats(min_value=1e-12, max_value=1e12, allow_subnormal=False)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12)


@settings(max_examples=60)
@given(
    lr=st.none() | numbers,
    temperature=numbers,
    weight=numbers,
    k=st.integers(0, 10**6),
    reduction=st.sampled_from(["mean", "sum", "balanced", "per_positive"]),
    source=texts,
    init=st.none() | texts,
    seed=st.integers(0, 2**63),
    compiled=st.booleans(),
)
def test_yaml_there_and_back_is_the_same_configuration(
    lr: float | None,
    temperature: float,
    weight: float,
    k: int,
    reduction: str,
    source: str,
    init: str | None,
    seed: int,
    compiled: bool,
) -> None:
    config = build(
        {
            "data": {"source": source},
            "method": {
                "name": "mls",
                "k": k,
                "temperature": temperature,
                "weight": weight,
                "reduction": reduction,
            },
            "backbone": {"init": init},
            "optimiser": {"lr": lr},
            "engine": {"compile": compiled},
            "seed": seed,
        }
    )
    assert build(yaml.safe_load(to_yaml(config))) == config
    assert build(to_tree(config)) == config


def test_every_setting_has_its_dotted_name() -> None:
    config = build(LEAST)
    flat = flatten(config)
    assert flat["method.k"] == config.method_config.k
    assert flat["seed"] == 0
    count = sum(
        len(dataclasses.fields(part))
        for part in (
            config.data,
            config.method_config,
            config.crops,
            config.backbone,
            config.optimiser,
            config.engine,
            config.probe,
        )
    )
    assert len(flat) == count + 3  # method.name, crops.name and seed


@pytest.mark.parametrize("name", method_names())
def test_a_wrong_augmentation_is_told_by_its_field(name: str) -> None:
    named = [
        field.name
        for field in dataclasses.fields(method_class(name).Config)
        if isinstance(field.default, str) and field.default in AUGMENTATIONS
    ]
    tree = {"data": {"source": "x", "size": -1}, "method": {"name": name, **dict.fromkeys(named, "mocco")}}
    with pytest.raises(UserError) as caught:
        build(tree)
    told = {problem.partition(":")[0]: problem for problem in caught.value.problems}
    assert named and told.keys() == {f"method.{field}" for field in named} | {"data.size"}
    for field in named:
        assert told[f"method.{field}"].startswith(f"method.{field}: unknown name 'mocco'. Did you mean 'moco'? Known: ")


def test_names_that_are_judged_later_are_told_with_the_rest() -> None:
    tree = {
        "data": {"source": "x"},
        "crops": {"name": "scne"},
        "method": {"name": "mlss"},
        "backbone": {"name": "resnt18"},
    }
    with pytest.raises(UserError) as caught:
        build(tree)
    told = " ".join(caught.value.problems)
    assert all(name in told for name in ("'mls'", "'resnet18'", "'scene'"))
