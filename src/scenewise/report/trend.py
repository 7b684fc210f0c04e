"""What a whole run says, in a few sentences: what is not decided by its figures is called not decided."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from scenewise.report.verdict import Advice, sentences, show

Line = Mapping[str, object]  # one object of metrics.jsonl
Point = tuple[int, float]  # (epoch, value)

FIFTHS = 5  # a plateau is judged between the last two fifths of the run ...
EPOCHS_FOR_A_PLATEAU = 10  # ... so each has at least two epochs and a spread of its own
FLAT = 0.05  # less than a twentieth of the whole fall in the last fifth (an even fall gives a fifth or more)
LR_SPENT = 0.05  # of its peak: from there the schedule, not the model, stops the loss from falling
STEPS_TO_JUDGE = 100  # what a teacher of momentum 0.99 remembers; with fewer its own start still speaks
TOO_YOUNG = "the run was too short for its figures to be judged: one epoch of few steps; give it more --epochs"
RANK_CHANGE = 0.25  # well above the change from one sample of 512 rows to the next, a few percent in simulations


def summary(history: Sequence[Line], *, method: str = "") -> list[str]:
    """Return the verdict over a run from the objects of its metrics.jsonl: what to try, loss, plateau, rank, probe."""
    if not history:
        return ["Nothing was logged, so nothing can be said about this run."]
    advice = [item.sentence for item in final_advice(history, method=method) if item.level != "ok"]
    if too_young(history):
        advice.append(TOO_YOUNG)
    told = [f"{sentence[0].upper()}{sentence[1:]}." for sentence in advice]
    told += [*_loss(history), *_rank(history)]
    for name in sorted({name for line in history for name in line if name.startswith("probe/")}):
        told += _probe(name, series(history, name))
    return told


def too_young(history: Sequence[Line]) -> bool:
    """Return whether a run ended in its first epoch, after too few steps for its figures to say anything."""
    if not history or history[-1].get("epoch") != 1:
        return False
    step = history[-1].get("step")
    return isinstance(step, int) and step < STEPS_TO_JUDGE


def final_advice(history: Sequence[Line], *, method: str) -> list[Advice]:
    """Return the advice for a run's last epoch (see `sentences`); of a run too young only what is not finite."""
    advice = sentences(last_figures(history), method=method)
    return [item for item in advice if not math.isfinite(item.value)] if too_young(history) else advice


def series(history: Sequence[Line], name: str) -> list[Point]:
    """Return a figure's mean of every epoch that has it, finite values only."""
    epochs: dict[int, list[float]] = {}
    for line in history:
        value, epoch = line.get(name), line.get("epoch")
        if isinstance(value, int | float) and isinstance(epoch, int) and math.isfinite(value):
            epochs.setdefault(epoch, []).append(float(value))
    return [(epoch, fmean(values)) for epoch, values in sorted(epochs.items())]


def last_figures(history: Sequence[Line]) -> dict[str, float]:
    """Return the last epoch's figures: means over its steps, but the last value of `health/`, `queue/` and `probe/`."""
    if not history:
        return {}
    epoch = history[-1].get("epoch")
    values: dict[str, list[float]] = {}
    for line in history:
        if line.get("epoch") == epoch:
            for name, value in line.items():
                if isinstance(value, int | float) and name not in {"step", "epoch"}:
                    values.setdefault(name, []).append(float(value))
    final = ("health/", "queue/", "probe/")
    return {name: column[-1] if name.startswith(final) else fmean(column) for name, column in values.items()}


def _loss(history: Sequence[Line]) -> list[str]:
    # While a dictionary fills, the loss has fewer negatives and starts too low: those steps say nothing.
    full = [line for line in history if line.get("queue/fill", 1.0) == 1.0] or list(history)
    points = series(full, "loss")
    if len(points) < 2:
        return ["Whether the loss falls is not decided: fewer than two whole epochs were logged."]
    first, last = points[0][1], points[-1][1]
    moved = "fell" if last < first else "rose"
    return [
        f"The loss {moved} from {show(first, 'number')} to {show(last, 'number')} over {len(points)} epochs.",
        _plateau(full, points),
    ]


def _plateau(history: Sequence[Line], points: Sequence[Point]) -> str:
    if len(points) < EPOCHS_FOR_A_PLATEAU:
        return f"Whether it has reached a plateau is not decided: that takes at least {EPOCHS_FOR_A_PLATEAU} epochs."
    values = [value for _, value in points]
    size = len(values) // FIFTHS
    before, after = values[-2 * size : -size], values[-size:]
    fall, whole = fmean(before) - fmean(after), values[0] - min(values)
    noise = math.hypot(stdev(before), stdev(after)) / math.sqrt(size)
    rates = [rate for _, rate in series(history, "lr")]
    if fall > max(FLAT * whole, 2 * noise):
        return "It was still falling at the end: more epochs (--epochs) would probably lower it further."
    if fall < -max(FLAT * whole, 2 * noise):
        return "It was rising at the end: try a lower learning rate (--lr)."
    if abs(fall) > FLAT * whole:
        return "Whether it has reached a plateau is not decided: its last epochs differ by no more than their noise."
    if rates and rates[-1] < LR_SPENT * max(rates):
        return (
            "It was flat at the end, where the learning rate had run out: "
            "whether a longer schedule would go further is not decided."
        )
    return "It has reached a plateau: more epochs at this learning rate would hardly lower it."


def _rank(history: Sequence[Line]) -> list[str]:
    points = series(history, "health/effective_rank")
    if len(points) < 2:
        return []
    first, last = points[0][1], points[-1][1]
    from_to = f"The effective rank of the features went from {first:.0f} to {last:.0f}"
    if last < (1 - RANK_CHANGE) * first:
        return [f"{from_to}: they came to use fewer dimensions."]
    if last > (1 + RANK_CHANGE) * first:
        return [f"{from_to}: they came to use more dimensions."]
    return [f"{from_to}: no clear trend."]


def _probe(name: str, points: Sequence[Point]) -> list[str]:
    if not points:
        return []
    (_, first), (_, last) = points[0], points[-1]
    epoch, best = max(points, key=lambda point: point[1])
    told = f"The probe's {name.removeprefix('probe/')} went from {show(first, 'share')} to {show(last, 'share')}"
    return [told + ("." if best == last else f"; its best was {show(best, 'share')} after {epoch} epochs.")]
