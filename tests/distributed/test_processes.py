"""Two and three processes on CPU equal one on the joined batch (law 4)."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scenewise.methods import method_names

WORKER = Path(__file__).parent / "worker.py"
TRAINED = [f"{name} {norm}" for name in method_names() for norm in ("group", "batch")]
TRAINED += [f"{name} varied" for name in ("mocov2", "msf", "s2r2")]

# float32 sums in another order: a few units in the last place, grown over four steps
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
APART = ("output", "teacher", "input gradient", "gradient/0.0.weight", "gradient/6.weight", "state/0.1.running_mean")


def compute(world: int, folder: Path) -> list[dict[str, Any]]:
    """Run the worker in so many processes and return what each of them found."""
    outs = [folder / f"{rank}-of-{world}.pt" for rank in range(world)]
    processes = [
        subprocess.Popen([sys.executable, WORKER, str(rank), str(world), folder / f"rendezvous-{world}", out])
        for rank, out in enumerate(outs)
    ]
    try:
        assert [process.wait(timeout=300) for process in processes] == [0] * world
    finally:
        for process in processes:
            process.kill()  # one that failed leaves the others waiting for it
    return [torch.load(out, weights_only=True) for out in outs]


@pytest.fixture(scope="module")
def single() -> dict[str, Any]:
    """Return what this process alone finds on the joined batches."""
    found: dict[str, Any] = runpy.run_path(str(WORKER))["everything"]()
    return found


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return compute(request.param, tmp_path_factory.mktemp(f"world-{request.param}"))


def test_gathers_are_in_rank_order_whatever_the_type_and_layout(ranks: list[dict[str, Any]]) -> None:
    world = len(ranks)
    image = torch.arange(24.0).reshape(2, 3, 2, 2)
    joined = torch.cat([image * mark for mark in range(1, world + 1)])
    for rank, found in enumerate(result["gathers"] for result in ranks):
        assert (found["world"], found["rank"]) == (world, rank)
        marks = range(1, world + 1)
        assert found["rows"].flatten().tolist() == [number for mark in marks for number in (10 * mark, 10 * mark + 1)]
        assert found["bool"].tolist() == [True] + [False] * (world - 1)
        assert found["half"].tolist() == [0.5 * mark for mark in marks]
        assert found["half"].dtype == torch.bfloat16
        for layout in ("plain", "channels_last", "transposed"):
            assert torch.equal(found[layout], joined), layout
        assert found["mean"].tolist() == [(world + 1) / 2, 0.0]
        assert found["slice"].tolist() == list(range(6 * rank, 6 * rank + 6))
        assert found["detached"]


def test_a_single_process_joins_nothing(single: dict[str, Any]) -> None:
    found = single["gathers"]
    assert (found["world"], found["rank"]) == (1, 0)
    assert found["rows"].flatten().tolist() == [10, 11]
    assert found["slice"].tolist() == list(range(6))
    assert found["mean"].tolist() == [1.0, 0.0]
    assert found["detached"]


def test_a_loss_on_the_joined_batch_has_the_single_process_gradient(
    single: dict[str, Any], ranks: list[dict[str, Any]]
) -> None:
    expected = single["with gradient"]
    for result in ranks:
        torch.testing.assert_close(result["with gradient"], expected)
        # the same without gradient through the gather has the value, but another gradient: the check above can fail
        torch.testing.assert_close(result["without gradient"]["loss"], expected["loss"])
        difference = result["without gradient"]["weight"] - expected["weight"]
        assert difference.abs().max() > 0.1 * expected["weight"].abs().max()


@pytest.mark.parametrize("split", ["even", "even channels-last", "uneven"])
def test_synchronised_batch_norm_equals_the_single_process_on_the_joined_batch(
    single: dict[str, Any], ranks: list[dict[str, Any]], split: str
) -> None:
    """Outputs with and without gradient, gradients of images and weights, running statistics."""
    expected = single[f"statistics {split}"]
    assert all(expected[key].abs().max() > 0.01 for key in APART)  # something to compare
    for result in ranks:
        found = result[f"statistics {split}"]
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, **CLOSE, msg=lambda text, key=key: f"{key}: {text}")
            assert not key.startswith("state/") or torch.equal(found[key], ranks[0][f"statistics {split}"][key]), key


def test_batch_norm_of_each_rank_alone_differs(single: dict[str, Any], ranks: list[dict[str, Any]]) -> None:
    expected = single["statistics apart"]
    for key, value in single["statistics even"].items():
        assert torch.equal(expected[key], value), key
    for result in ranks:
        found = result["statistics apart"]
        for key in APART:
            difference = (found[key] - expected[key]).abs().max()
            assert difference > 0.02 * expected[key].abs().max(), key


def test_every_loss_equals_the_single_process_on_the_joined_batch(
    single: dict[str, Any], ranks: list[dict[str, Any]]
) -> None:
    """Value and averaged gradient, each loss called as the methods call it."""
    assert len(single["losses"]) == 12
    for name, expected in single["losses"].items():
        assert expected["gradient"].abs().max() > 1e-3, name
        for result in ranks:
            torch.testing.assert_close(
                result["losses"][name], expected, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
            )


@pytest.mark.parametrize("name", ["nt_xent", "ranking_loss smooth", "ranking_loss hist"])
def test_a_gather_without_gradient_is_seen(single: dict[str, Any], ranks: list[dict[str, Any]], name: str) -> None:
    """The value is right and the gradient is not: the comparison above can fail."""
    expected = single["losses"][name]
    torch.testing.assert_close(single["losses without gradient"][name], expected)
    for result in ranks:
        found = result["losses without gradient"][name]
        torch.testing.assert_close(found["value"], expected["value"])
        difference = (found["gradient"] - expected["gradient"]).abs().max()
        assert difference > 0.1 * expected["gradient"].abs().max()


@pytest.mark.parametrize("norm", ["group", "grouped"])
def test_the_shuffled_pass_equals_the_single_process_one(
    single: dict[str, Any], ranks: list[dict[str, Any]], norm: str
) -> None:
    for result in ranks:
        torch.testing.assert_close(result[f"shuffled {norm}"], single[f"shuffled {norm}"], **CLOSE)


@pytest.mark.parametrize("trained", TRAINED)
def test_training_equals_the_single_process_on_the_joined_batch(
    single: dict[str, Any], ranks: list[dict[str, Any]], trained: str
) -> None:
    """Losses, figures, averaged gradients, weights, batch statistics, teachers and queues."""
    expected = single[trained]
    for result in ranks:
        found = result[trained]
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, **CLOSE, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("trained", TRAINED)
def test_every_process_holds_the_same_state(ranks: list[dict[str, Any]], trained: str) -> None:
    def state(result: dict[str, Any]) -> dict[str, Tensor]:
        return {key: value for key, value in result[trained].items() if key.startswith("state/")}

    first = state(ranks[0])
    for result in ranks[1:]:
        for key, value in state(result).items():
            assert torch.equal(value, first[key]), key


@pytest.mark.parametrize("trained", TRAINED)
def test_the_compared_run_did_something(single: dict[str, Any], trained: str) -> None:
    found = single[trained]
    moved = [value.abs().max() for key, value in found.items() if key.startswith("3/gradient/")]
    assert len(moved) > 4
    # a batch norm takes the constants before it away, and their gradients
    assert sum(change > 1e-4 for change in moved) > 0.7 * len(moved)
    assert abs(found["3/loss"]) > 0.1  # UniVIP's is a sum of minus cosines
