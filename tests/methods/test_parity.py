"""MoCo v2, SimCLR, BYOL and SwAV against LightlySSL: loss, gradients, teachers and queues of several whole steps.

The relation of the losses is in make_parity.py (SCALE_AND_OFFSET): BYOL's 4 - 2 cos - 2 cos is 4 + 4 times LightlySSL's
half sum of -cos, the others are equal.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

NAMES = ["mocov2", "simclr", "byol", "swav"]
# in front of a batch norm, which takes them away: the published heads have them, LightlySSL's have not
WITHOUT_INFLUENCE = {
    "mocov2": set(),
    "simclr": set(),
    "byol": {"encoder.head.0.bias", "predictor.0.bias"},
    "swav": {"head.0.bias"},
}


@pytest.fixture(scope="module")
def parity() -> ModuleType:
    """Return make_parity.py, which is a script and so no module that can be imported by name."""
    place = importlib.util.spec_from_file_location("make_parity", Path(__file__).with_name("make_parity.py"))
    assert place is not None
    assert place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


def without(teacher: dict[str, Tensor], names: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in teacher.items() if key in names}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")  # LightlySSL's own
def test_several_steps_equal_those_of_lightlyssl(parity: ModuleType, name: str) -> None:
    pytest.importorskip("lightly", reason="needs LightlySSL: pip install 'scenewise[dev]'")
    scale, offset = parity.SCALE_AND_OFFSET[name]
    close = {"rtol": 1e-9, "atol": 1e-11}
    for mine, theirs in zip(parity.our_steps(name), parity.their_steps(name), strict=True):
        torch.testing.assert_close(mine["loss"], scale * theirs["loss"] + offset, **close)
        alone = mine["gradients"].keys() - theirs["gradients"].keys() - {"prototypes.weight"}
        assert alone == WITHOUT_INFLUENCE[name]
        assert theirs["gradients"].keys() <= mine["gradients"].keys()
        for key, gradient in mine["gradients"].items():
            expected = scale * theirs["gradients"][key] if key in theirs["gradients"] else torch.zeros_like(gradient)
            torch.testing.assert_close(gradient, expected, msg=lambda text, key=key: f"{key}: {text}", **close)
        held = without(theirs["teacher"], mine["teacher"])
        torch.testing.assert_close(without(mine["teacher"], held), held, **close)
        assert (len(held) > 0) == (name in ("mocov2", "byol"))
        torch.testing.assert_close(mine["queue"], theirs["queue"], **close)
        assert len(theirs["queue"]) == {"mocov2": 1, "swav": 2}.get(name, 0)


@pytest.mark.parametrize("name", NAMES)
def test_several_steps_have_the_figures_lightlyssl_gave(parity: ModuleType, name: str) -> None:
    """parity.json, written by make_parity.py with LightlySSL 1.6.0: the norm and a projection of every tensor."""
    scale, offset = parity.SCALE_AND_OFFSET[name]
    golden = json.loads(parity.GOLDEN.read_text())[name]
    for mine, theirs in zip(map(parity.shortened, parity.our_steps(name)), golden, strict=True):
        assert mine["loss"] == pytest.approx(scale * theirs["loss"] + offset, rel=1e-8)
        for part, factor in (("gradients", scale), ("teacher", 1.0), ("queue", 1.0)):
            for key, figures in theirs[part].items():
                if key in mine[part]:
                    assert mine[part][key] == pytest.approx([factor * figure for figure in figures], rel=1e-7, abs=1e-9)
                else:
                    assert figures == [0.0, 0.0], f"{key}: LightlySSL's alone, held at zero"


def test_the_figures_see_a_wrong_step(parity: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above can fail: a temperature, a momentum, a code and a moment of pushing changed are seen."""
    for name, changed in [
        ("mocov2", {"temperature": 0.21}),
        ("mocov2", {"momentum": 0.91}),
        ("simclr", {"temperature": 0.11}),
        ("byol", {"momentum_schedule": "constant"}),
        ("swav", {"freeze_epochs": 0.0}),
        ("swav", {"queue_epochs": 3.0}),
        ("swav", {"iterations": 2}),
    ]:
        with monkeypatch.context() as patch:
            patch.setitem(parity.SETTINGS, name, parity.SETTINGS[name] | changed)
            with pytest.raises(AssertionError):
                test_several_steps_have_the_figures_lightlyssl_gave(parity, name)


def test_every_parameter_of_ours_is_compared(parity: ModuleType) -> None:
    golden = json.loads(parity.GOLDEN.read_text())
    for name in NAMES:
        online = {key for key, value in parity.parameters(parity.ours(name)).items() if value.requires_grad}
        compared = {key for record in golden[name] for key in record["gradients"]}
        assert online - compared == WITHOUT_INFLUENCE[name]
