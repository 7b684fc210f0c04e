"""What is watched: figures as plain numbers, of all processes, fetched together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from scenewise.engine import loop, plan, watch
from scenewise.engine.config import RunConfig
from scenewise.engine.display import Quiet
from scenewise.engine.run import pretrain_run
from scenewise.engine.watch import FIRST_STEPS, Awaited, Moment, Stopwatch, term_gradients
from scenewise.types import Effort, StepOutput


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pretend a second process whose figures are all 1 larger; return the lengths of what is exchanged."""
    lengths: list[int] = []

    def mean_of_two(values: Tensor) -> Tensor:
        lengths.append(len(values))
        return values + 0.5

    monkeypatch.setattr(watch, "mean_over_ranks", mean_of_two)
    return lengths


def test_alone_figures_are_what_they_were_to_the_last_bit() -> None:
    values = {"loss": torch.tensor(0.1, requires_grad=True), "lr": 0.1, "share": torch.tensor(1 / 3).bfloat16(), "k": 3}
    found = Awaited(values).read()
    assert list(found) == list(values)
    assert found == {"loss": float(torch.tensor(0.1)), "lr": 0.1, "share": float(values["share"]), "k": 3.0}
    assert Awaited({"lr": 0.1}).read() == {"lr": 0.1}
    assert Awaited({}).read() == {}


def test_figures_are_the_mean_over_all_processes_in_one_message(messages: list[int]) -> None:
    found = Awaited({"loss": torch.tensor(2.0), "lr": 0.1, "queue/fill": torch.tensor(0.0)}).read()
    assert found == {"loss": 2.5, "lr": 0.1, "queue/fill": 0.5}
    assert messages == [2]


def test_gradient_norms_are_of_all_processes(messages: list[int]) -> None:
    embeddings = nn.functional.normalize(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    embeddings.requires_grad_()
    constant = torch.zeros(())
    output = StepOutput(
        loss=embeddings[:, 0].mean(),
        terms={"first": embeddings[:, 0].mean(), "double": 2 * embeddings[:, 0].mean(), "silent": constant},
        embeddings=embeddings,
        targets=embeddings.detach(),
        features=embeddings.detach(),
    )
    # each row has length 1 and the gradient 1 / 4 in one place: a norm of 1 a query, of 1.5 with the other process
    assert Awaited(term_gradients(output)).read() == pytest.approx({"grad/first": 1.5, "grad/double": 2.5})
    assert messages == [2]


def test_a_stopwatch_tells_the_share_of_waiting_and_the_loading_between_two_moments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock: Iterator[float] = iter([103.0, 108.0])
    monkeypatch.setattr(watch.time, "perf_counter", lambda: next(clock))
    stopwatch = Stopwatch({"workers": 2.0})
    stopwatch.waited(10.0)  # before the first moment, so it does not count
    stopwatch.loaded(Effort(5, 9.0, 9.0, 9.0, 9e9))
    start = stopwatch.now()  # 103
    stopwatch.waited(0.5)
    stopwatch.loaded(Effort(4, 0.004, 0.04, 0.4, 2e6))
    end = stopwatch.now()  # 108
    assert stopwatch.between(start, end, images=20) == pytest.approx(
        {
            "images_per_second": 4.0,
            "data_wait": 0.1,
            "loading/read": 1.0,
            "loading/decode": 10.0,
            "loading/rest": 100.0,
            "loading/megapixels": 0.5,
            "loading/workers": 2.0,
        }
    )
    nothing = stopwatch.between(end, Moment(end.time, end.waited, end.effort), images=0)
    assert nothing == {"images_per_second": 0.0, "data_wait": 0.0}


def test_a_run_says_once_what_would_cure_its_waiting_and_is_the_same_run(
    monkeypatch: pytest.MonkeyPatch, settings: Callable[..., RunConfig], tmp_path: Path
) -> None:
    waits = iter([0.3, 0.3, 0.3])
    real, seen = Stopwatch.between, []

    def slow(self: Stopwatch, start: Moment, end: Moment, *, images: int) -> dict[str, float]:
        figures = real(self, start, end, images=images) | {"data_wait": next(waits)}
        seen.append((images, figures))
        return figures

    still = pretrain_run(settings(), tmp_path / "still", display=Quiet())
    monkeypatch.setattr(Stopwatch, "between", slow)
    monkeypatch.setattr(loop, "FIRST_STEPS", 3)
    monkeypatch.setattr(plan, "cores_of_process", lambda: 4)
    display = Quiet()
    run = pretrain_run(settings(), tmp_path / "run", display=display)  # 2 epochs of 5 steps of 8 images
    assert [images for images, _ in seen] == [3 * 8, 5 * 8, 5 * 8]  # the first steps once, then the epochs
    told = [text for text in display.warnings if "waits for its data" in text]
    assert len(told) == 1 and "30 %" in told[0] and "--workers 1 (now 0, on 4 cores)" in told[0]
    assert run.backbone.read_bytes() == still.backbone.read_bytes()
    assert {"loading/read", "loading/decode", "loading/rest", "loading/cores"} <= seen[0][1].keys()


def test_a_run_of_few_steps_is_not_judged_by_its_waiting(settings: Callable[..., RunConfig], tmp_path: Path) -> None:
    display = Quiet()
    pretrain_run(settings(engine={"epochs": 1}), tmp_path / "run", display=display)
    assert FIRST_STEPS > 5
    assert not [text for text in display.warnings if "waits for its data" in text]
