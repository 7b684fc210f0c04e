"""A study's table in Markdown, from its JSON alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from scenewise.tools.study_plan import described
from scenewise.tools.study_results import ONE_SEED

NO_PICTURES: Mapping[str, str] = {}
READING = (
    "A figure is the mean over the seeds, ± their standard deviation. A difference is the mean over the seeds that the "
    "arm and its control have in common; its 95 % interval is of the same resampled test images for both (paired "
    "bootstrap), and with several seeds of those too (Student's t, added in quadrature). With one seed it does not "
    f"hold what another training would change: such a row is marked “{ONE_SEED}”.",
    "Each interval stands for itself: of twenty differences that are none, about one looks decided.",
)


def table_markdown(content: Mapping[str, Any], pictures: Mapping[str, str] = NO_PICTURES) -> str:
    """Return the page: what was asked, claims and their verdicts, the table, choices, where each run came from, notes.

    pictures: a claim's name -> the file of its figure, where it has one.
    """
    parts = [
        f"# {content['study']}",
        content["about"],
        _facts(content),
        *(_claim(claim, pictures.get(claim["name"])) for claim in content["claims"]),
        "## All arms" if content["claims"] else "",
        _rows(_heading(content), [_row(arm, content) for arm in content["arms"]]),
        "\n\n".join(READING),
        _choices(content["arms"]),
        "\n".join(f"- {note}" for note in content["notes"]),
        "## How each run was made",
        _rows(
            ["run", "commit", "torch", "machine", "wall time", "command"],
            [_made(run) for arm in content["arms"] for run in arm["runs"] if "figures" in run],
        ),
        "\n".join(f"- {note}" for note in content["run_notes"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(content: Mapping[str, Any]) -> str:
    test, choose = content["test_on"], content["choose_on"]
    facts = [f"Pool: `{content['data']}`, views of {content['size']} px."]
    if content["passes"] is not None:
        facts.append(
            f"Compute: {content['passes']:g} encoder passes an image (forward 1, forward and backward 3), of which "
            "each arm's epochs follow."
        )
    facts.append(
        f"Learnt on `{test['train']}`, tested on `{test['test']}`, looked at once for each run, after all choices."
    )
    if choose is not None and any(arm["choice"] for arm in content["arms"]):
        facts.append(f"Choices: learnt on `{choose['train']}`, judged on `{choose['test']}`.")
    facts.append(f"Command: `{content['command']}`.")
    return " ".join(facts)


def _claim(claim: Mapping[str, Any], picture: str | None) -> str:
    shown = f"\n\n![{claim['name']}]({picture})" if picture else ""
    return f"## {claim['name']}\n\n*Claim.* {claim['says']}\n\n*Verdict.* {claim['verdict']}{shown}"


def _figures(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(protocol, metric) for protocol, metric in content["protocols"].items() if metric is not None]


def _heading(content: Mapping[str, Any]) -> list[str]:
    names = [f"{protocol} {metric}" for protocol, metric in _figures(content)]
    return ["arm", "seeds", "epochs", "passes", *(f"{name} (%)" for name in names), "against"] + [
        cell for name in names for cell in (f"Δ {name} (points)", "so it is")
    ]


def _row(arm: Mapping[str, Any], content: Mapping[str, Any]) -> list[str]:
    figures = _figures(content)
    finished = sum("figures" in run for run in arm["runs"])
    seeds = "–" if arm["seeds"] == [] else f"{finished} of {len(arm['seeds'])}"
    cells = [arm["label"], seeds, _number(arm["epochs"]), _number(arm["passes"])]
    cells += [_figure(arm["figures"].get(protocol), arm) for protocol, _ in figures]
    cells.append(arm["control"] or "–")
    for protocol, _ in figures:
        cells += _difference(arm["differences"].get(protocol), one_seed=bool(arm["seeds"]) and finished == 1)
    return cells


def _figure(figure: Mapping[str, Any] | None, arm: Mapping[str, Any]) -> str:
    if figure is None:
        return "open" if arm["open"] else "–"
    spread = "" if figure["spread"] is None else f" ± {100 * figure['spread']:.1f}"
    return f"{100 * figure['value']:.1f}{spread}"


def _difference(difference: Mapping[str, Any] | None, *, one_seed: bool) -> list[str]:
    if difference is None:
        return ["–", ONE_SEED if one_seed else "–"]
    value, low, high = (100 * difference[name] for name in ("value", "low", "high"))
    return [f"{value:+.1f} [{low:+.1f}, {high:+.1f}]", difference["verdict"]]


def _choices(arms: Sequence[Mapping[str, Any]]) -> str:
    """Return what was tried for each arm, the choice in bold."""
    rows = []
    for arm in arms:
        choice = arm["choice"]
        for place, tried in enumerate(choice["tried"] if choice else ()):
            name, value = described(tried["settings"]), tried["value"]
            shown = f"failed: {tried['failed']}" if value is None else f"{100 * value:.1f}"
            rows.append(
                [arm["label"], f"**{name}**" if place == choice["variant"] else name, f"{choice['by']} {shown}"]
            )
    if not rows:
        return ""
    return "## What was chosen, with the first seed\n\n" + _rows(["arm", "tried", "figure (%)"], rows)


def _made(run: Mapping[str, Any]) -> list[str]:
    seconds = run["seconds"] if run["seconds"] is not None else run["test_seconds"]
    commit = run["commit"] or "not from a repository"
    wall = str(timedelta(seconds=round(seconds)))
    return [run["name"], commit, run["torch"], run["machine"], wall, f"`{run['command']}`"]


def _number(value: float | int | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _rows(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
