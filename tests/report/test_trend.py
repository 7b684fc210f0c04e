"""The verdict over a run: it names what the history shows, and says when it cannot be said."""

from __future__ import annotations

import math

import numpy as np
import pytest

from scenewise.report.trend import final_advice, last_figures, series, summary


def history(
    losses: list[float], *, lr: float | None = 0.1, noise: float = 0.01, steps: int = 5, **last: float
) -> list[dict]:
    draw = np.random.default_rng(0)
    lines: list[dict] = []
    for epoch, loss in enumerate(losses, start=1):
        rate = lr if lr is not None else 0.1 * (1 - (epoch - 1) / len(losses)) ** 4
        for _ in range(steps):
            lines.append({"step": len(lines) + 1, "epoch": epoch, "loss": loss + noise * draw.normal(), "lr": rate})
    lines[-1] |= last
    return lines


def told(lines: list[dict]) -> str:
    return " ".join(summary(lines, method="mls"))


def test_a_falling_a_flat_and_a_rising_loss_are_told_apart() -> None:
    falling = told(history([5 - 0.1 * epoch for epoch in range(20)]))
    assert "fell from 5.00 to 3.10 over 20 epochs" in falling
    assert "still falling" in falling
    flat = [3 + 2 * math.exp(-epoch) for epoch in range(20)]
    assert "reached a plateau: more epochs at this" in told(history(flat))
    assert "whether a longer schedule would go further is not decided" in told(history(flat, lr=None))
    rising = told(history([5 - 0.3 * min(epoch, 20 - epoch) for epoch in range(20)]))
    assert "rising at the end" in rising


def test_what_cannot_be_said_is_not_said() -> None:
    assert "Nothing was logged" in told([])
    assert "not decided: fewer than two whole epochs" in told(history([5.0]))
    short = told(history([5.0, 4.0, 3.0]))
    assert "fell" in short
    assert "plateau is not decided" in short
    noisy = told(history([5 - 0.05 * epoch + (-1) ** (epoch // 2) * 1.5 for epoch in range(20)]))
    assert "is not decided: its last epochs differ by no more than their noise" in noisy


def test_steps_with_a_dictionary_that_fills_are_left_out() -> None:
    lines = history([0.5, 6.0, 5.0, 4.0])
    for line in lines:
        line["queue/fill"] = 0.4 if line["epoch"] == 1 else 1.0
    assert "fell from 6.0" in told(lines)


def test_rank_probe_and_advice_are_told() -> None:
    lines = history([5.0, 4.0, 3.0])
    for epoch, (rank, probe) in enumerate([(200, 0.3), (150, 0.45), (20, 0.4)]):
        lines[5 * epoch + 4] |= {"health/effective_rank": rank, "probe/knn_mAP": probe, "health/feature_spread": 0.03}
    sentences = summary(lines, method="mls")
    assert sentences[0].startswith("The features are collapsing: spread 0.03, healthy above 0.30; try ")
    assert "The effective rank of the features went from 200 to 20: they came to use fewer dimensions." in sentences
    assert "The probe's knn_mAP went from 30 % to 40 %; its best was 45 % after 2 epochs." in sentences


def test_a_loss_that_broke_down_is_told() -> None:
    assert "broken down: loss is nan" in told(
        [*history([5.0, 4.0]), {"step": 11, "epoch": 3, "loss": math.nan, "lr": 0.1}]
    )


@pytest.mark.parametrize(("step", "epoch", "judged"), [(1, 1, False), (99, 1, False), (100, 1, True), (4, 2, True)])
def test_one_epoch_of_few_steps_is_not_judged(step: int, epoch: int, judged: bool) -> None:
    lines = [{"step": step, "epoch": epoch, "loss": 2.0, "data_wait": 0.9, "health/feature_spread": 0.01}]
    assert bool(final_advice(lines, method="mls")) == judged
    assert ("too short" in told(lines)) != judged
    assert ("waits for its data" in told(lines)) == judged
    broken = final_advice([lines[0] | {"loss": math.nan}], method="mls")
    assert [advice.figure for advice in broken][:1] == ["loss"]


def test_series_and_last_figures() -> None:
    lines = [
        {"step": 1, "epoch": 1, "loss": 4.0, "data_wait": 0.5},
        {"step": 2, "epoch": 2, "loss": 3.0, "data_wait": 0.1, "queue/fill": 0.5},
        {"step": 3, "epoch": 2, "loss": 1.0, "data_wait": 0.3, "queue/fill": 1.0, "note": "text"},
    ]
    assert series(lines, "loss") == [(1, 4.0), (2, 2.0)]
    assert last_figures(lines) == pytest.approx({"loss": 2.0, "data_wait": 0.2, "queue/fill": 1.0})
    assert last_figures([]) == {}
