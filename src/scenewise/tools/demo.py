"""The whole story on generated scenes with known objects: random weights, MoCo v2 and MLS, side by side."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scenewise.engine.config import build
from scenewise.engine.display import Display, Quiet
from scenewise.engine.folder import writing
from scenewise.engine.run import pretrain_run
from scenewise.errors import UserError
from scenewise.evaluate.evaluation import Evaluation
from scenewise.report.records import ComparisonTable
from scenewise.tools.compare import comparison_markdown, main_sentences, paired_differences
from scenewise.tools.judge import Terms, judge
from scenewise.tools.report import report_run, report_runs

DATA = "synthetic:1500"  # what two cores train on twice, and evaluate three times, in about five minutes
SIZE = 64
EPOCHS = 10
BACKBONE = "resnet18"
METHODS = {"mocov2": "MoCo v2", "mls": "MLS"}  # name -> as the table calls it


def demo_tree(method: str, seed: int) -> dict[str, Any]:
    """Return the configuration of one of the demo's two runs: the two share everything but the method's extra term."""
    shared = {"momentum": 0.99, "width": 128, "dictionary_size": 512}  # scaled down with the data
    return {
        "seed": seed,
        "data": {"source": DATA, "size": SIZE},
        "method": {"name": method, **shared},
        "backbone": {"name": BACKBONE},
        "engine": {"epochs": EPOCHS, "batch_size": 64, "tensorboard": False},
    }


def run_demo(out: Path, *, overwrite: bool = False, seed: int = 0, display: Display | None = None) -> Path:
    """Pre-train with both methods, evaluate them beside random weights, write OUT/report.html; return OUT."""
    display = display or Quiet()
    if out.exists() and not out.is_dir():
        raise UserError(f"--out: {str(out)!r} is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise UserError(
            f"--out: {str(out)!r} exists and is not empty; name another folder or replace it with --overwrite"
        )
    with writing(out):
        results = [_judge(f"random:{BACKBONE}", "random init", seed, display)]
        for method, name in METHODS.items():
            run = pretrain_run(build(demo_tree(method, seed)), out / method, overwrite=True, display=display)
            report_run(run.folder)
            results.append(_judge(str(run.folder), name, seed, display))
        told = _write_story(out, results, seed)
    best = out / list(METHODS)[-1]
    display.say(comparison_markdown(results))
    for sentence in told:
        display.say(sentence)
    display.say(f"report: {out / 'report.html'}")
    display.say(f"backbone: {best}  (scenewise export {best} --format timm --out backbone.pth)")
    return out


def _write_story(out: Path, results: Sequence[Evaluation], seed: int) -> list[str]:
    """Write the figures and the page; return what may be said of every two subjects, the later against the earlier."""
    content = [result.to_json() for result in results]
    (out / "results.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    table = ComparisonTable.from_results(content)
    pairs = [(later, earlier) for earlier, later in itertools.combinations(table.subjects, 2)]
    told = main_sentences(table, paired_differences(results, pairs), published={})
    said = f"{DATA}, {BACKBONE} at {SIZE} px, {EPOCHS} epochs, seed {seed}: no evidence for a method."
    report_runs(
        [out / method for method in METHODS],
        out / "report.html",
        title="Scenewise demo: generated scenes",
        table=table,
        notes=[*told, said],
    )
    return told


def _judge(subject: str, name: str, seed: int, display: Display) -> Evaluation:
    found = judge(subject, DATA, Terms(size=SIZE, seed=seed), display=display)
    return dataclasses.replace(found, subject=name)
