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
from scenewise.tools.compare import paired_differences
from scenewise.tools.comparison import comparison_markdown, main_sentences
from scenewise.tools.judge import evaluate
from scenewise.tools.report import report_run, report_runs

# sized for about five minutes on two cores; two threads of one core of an AMD EPYC without bf16 took 7.5
DATA = "synthetic:1000"
SIZE = 32
EPOCHS = 8
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


def demo(
    out: str | Path = "scenewise-demo", *, overwrite: bool = False, seed: int = 0, display: Display | None = None
) -> Path:
    """Run the whole story on generated scenes and return its folder (`scenewise demo`).

    Pre-trains with both methods, evaluates them beside random weights and writes OUT/report.html. Raises UserError for
    a folder that may not be written, and Interrupted after saving.
    """
    display, out = display or Quiet(), Path(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out: {str(out)!r} is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise UserError(
            f"--out: {str(out)!r} exists and is not empty; name another folder or replace it with --overwrite"
        )
    with writing(out):
        results = [_judge(f"random:{BACKBONE}", "random init", seed, display)]
        for method, name in METHODS.items():
            config = build(demo_tree(method, seed))
            run = pretrain_run(config, out / method, overwrite=True, report=report_run, display=display)
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
    found = evaluate(subject, data=DATA, size=SIZE, seed=seed, display=display)
    return dataclasses.replace(found, subject=name)
