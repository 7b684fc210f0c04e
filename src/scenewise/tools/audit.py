"""The audit of a folder: what is in it, how crops of it fall, and what to use therefore.

Sizes, unreadable headers and exact duplicates are counted over all images. What needs pixels - near duplicates,
brightness, objects, crops, files cut off in the middle - is measured on up to `limit` images drawn by the seed.
"""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scenewise.engine.display import Display, Quiet
from scenewise.engine.folder import writing
from scenewise.engine.proposed import AUTO, LABELS, Proposed, check_proposals, open_offered
from scenewise.engine.run import open_with_display
from scenewise.errors import UserError, all_at_once
from scenewise.outputs import check_output
from scenewise.report.audit_page import write_audit
from scenewise.sources import Source, parse_spec
from scenewise.tools.audit_advice import Facts, choose_size, recommend
from scenewise.tools.audit_duplicates import NEAR, near_pairs, same_content
from scenewise.tools.audit_figures import Audit
from scenewise.tools.audit_html import audit_page
from scenewise.tools.audit_objects import JUDGE, SALIENCY, choose_judge, generator_of
from scenewise.tools.audit_pairs import DRAWS, pair_figures
from scenewise.tools.audit_sample import Measured, ReadingTime, Setting, draw_sample, measure_all, time_reading
from scenewise.tools.audit_survey import Survey, survey_images
from scenewise.types import Skip
from scenewise.views.opencv import check_opencv
from scenewise.views.policies import POLICIES, make_policies, setting_names
from scenewise.views.regions import RegionPolicy

LIMIT = 2000  # images decoded: shares over images are then known to about 1 point
PROPOSALS = "--proposals"  # what names the file that crops are cut by, in errors
LEAST_SIZE = 16  # pixels of a view, as for `evaluate`


@dataclass(frozen=True, slots=True)
class Sample:
    """The images that were decoded, those of them that cannot be, and the time it takes."""

    measured: Sequence[Measured]
    skipped: Sequence[Skip]
    reading: ReadingTime


def audit(
    data: str,
    *,
    proposals: str | Path | None = None,
    judge: str | Path | None = None,
    html: str | Path | None = None,
    limit: int = LIMIT,
    size: int | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    workers: int = 0,
    overwrite: bool = False,
    reindex: bool = False,
    display: Display | None = None,
) -> Audit:
    """Say what is in a folder and what to use for it (`scenewise audit`); `.to_json()` gives the command's JSON.

    proposals: a file of `scenewise propose`, or `labels`: what the object-aware policies cut by; None: those that were
    packed with the images. Without any only the policies that need none are measured. judge: who says where the objects
    are: a file of proposals, `labels`, `saliency`, or None: labels where there are some, else regions that stand out,
    which no generator of `scenewise propose` uses. So crops are judged by other boxes than those that made them; where
    they are the same, by request, a note says so. html: a page to write too. limit: images decoded, drawn by the seed.
    size: pixels of a full view, for which crops are judged and the rest is recommended; None: what is recommended for
    these photos. settings: of the region policies by dotted name, as a run takes them (`crops.min_window`): each policy
    has those that it knows. Raises UserError for wrong input, before any work.
    """
    settings = dict(settings or {})
    display, html = display or Quiet(), None if html is None else Path(html)
    proposals = None if proposals is None else str(proposals)
    judge = None if judge is None else str(judge)
    all_at_once(
        lambda: _check_terms(limit=limit, size=size, proposals=proposals, judge=judge),
        lambda: check_output("--html", html, overwrite=overwrite),
        lambda: parse_spec(data),
        lambda: make_policies(settings),
        check_opencv,
    )
    source = open_with_display(data, display, reindex=reindex)
    proposed, notes = open_offered(proposals, source, folder=None, field=PROPOSALS)
    chosen, said = choose_judge(judge, source)
    if proposed is not None and generator_of(proposed) == chosen.generator:
        said = [*said, "crops are judged by boxes of the generator that made them: their shares are upper bounds"]
    survey = survey_images(source, display)
    judged = choose_size(survey.short_side)[0] if size is None else size
    setting = Setting(_policies(proposed, settings), proposed, proposals, chosen, judged, seed)
    sample = _sample(source, setting, limit=limit, workers=workers, display=display)
    said = [*source.notes, *notes, *said]
    found = _audit(data, source, survey, sample, setting, asked=size, settings=settings, notes=said)
    if html is not None:
        with writing(html):
            write_audit(html, audit_page(found, source, sample.measured, setting))
    return found


def _check_terms(*, limit: int, size: int | None, proposals: str | None, judge: str | None) -> None:
    problems = []
    if limit < 1:
        problems.append(f"--limit: {limit}; at least 1 image has to be looked at")
    if size is not None and size < LEAST_SIZE:
        problems.append(f"--size: {size}; at least {LEAST_SIZE} pixels")
    for option, asked in ((PROPOSALS, proposals), (JUDGE, judge)):
        if asked == AUTO:
            problems.append(
                f"{option}: {AUTO!r} keeps its file in a run's folder; make one with `scenewise propose DATA --out "
                f"proposals.arrow` and name it, or write {LABELS}"
            )
    if problems:
        raise UserError(*problems)
    all_at_once(
        lambda: check_proposals(proposals, field=PROPOSALS),
        lambda: _check_judge(judge),
    )


def _check_judge(judge: str | None) -> None:
    """Raise UserError for a file that cannot judge; a name that is none may be a judge's, misspelt."""
    if judge is None or judge == SALIENCY:
        return
    try:
        check_proposals(judge, field=JUDGE)
    except UserError as error:
        near = [] if Path(judge).exists() else difflib.get_close_matches(judge, (SALIENCY, LABELS), n=1)
        hint = f", or did you mean {near[0]!r}?" if near else ""
        raise UserError(*(problem + hint for problem in error.problems)) from error


def _policies(proposed: Proposed | None, settings: Mapping[str, Any]) -> dict[str, RegionPolicy]:
    """Return the policies that can be measured, every value decided: without proposals those that need none."""
    policies = make_policies(settings)
    if proposed is None:
        return {name: policy for name, policy in policies.items() if not policy.needs_proposals}
    return {name: policy.decide(proposed.mean_area) for name, policy in policies.items()}


def _as_options(settings: Mapping[str, Any], *, crops: str) -> tuple[str, ...]:
    """Return the settings that a region policy has, as options of a command ready for a shell."""
    known = setting_names(crops)
    return tuple(
        f"--set {shlex.quote(f'{name}={json.dumps(value)}')}" for name, value in settings.items() if name in known
    )


def _sample(source: Source, setting: Setting, *, limit: int, workers: int, display: Display) -> Sample:
    drawn = draw_sample(len(source), limit, seed=setting.seed)
    with display.bar("timing the reading", None):
        reading = time_reading(source, drawn.tolist(), size=setting.size, seed=setting.seed)
    with display.bar("looking at the images", len(drawn)) as bar:
        measured, skipped = measure_all(source, np.sort(drawn).tolist(), setting, workers=workers, progress=bar.update)
    if reading is None or not measured:
        first = skipped[0]
        raise UserError(f"data: hardly an image of {source.spec} can be read, e.g. {first.key}: {first.reason}")
    return Sample(measured, skipped, reading)


def _audit(
    data: str,
    source: Source,
    survey: Survey,
    sample: Sample,
    setting: Setting,
    *,
    asked: int | None,
    settings: Mapping[str, Any],
    notes: Sequence[str],
) -> Audit:
    """Return the figures of what was found, and what follows; asked, settings: what the user wants otherwise."""
    measured = sample.measured
    indices = [each.index for each in measured]
    digests = [each.digest for each in measured]
    pairs = {
        name: pair_figures([each.pairs[name] for each in measured], seed=setting.seed) for name in setting.policies
    }
    objects = np.array([len(each.objects) for each in measured])
    copies = survey.copies
    if copies is None:
        copies = [[indices[place] for place in group] for group in same_content(digests)]
    near = [
        (indices[first], indices[second])
        for first, second in near_pairs(np.stack([each.looks for each in measured])).tolist()
        if digests[first] != digests[second]
    ]
    facts = Facts(
        data=data,
        images=len(source) - len(sample.skipped),
        unreadable=len(source.unreadable) + round(_expected_to_fail(source, sample)),
        size=asked,
        short_side=survey.short_side,
        objects=float(objects.mean()) if setting.judge.generator == LABELS else None,
        missed={name: 1 - found.common.value for name, found in pairs.items() if found.common is not None},
        fallbacks={name: found.fallback for name, found in pairs.items()},
        decode_seconds=sample.reading.decode,
        view_seconds=(sample.reading.two_views - sample.reading.decode) / 2,
        proposals=setting.asked,
        packed=setting.asked is None and setting.proposals is not None,
        options={name: _as_options(settings, crops=name) for name in POLICIES},
    )
    return Audit(
        data=data,
        read=len(source) - len(sample.skipped),
        unreadable=[*source.unreadable, *sample.skipped],
        tiny=int(survey.tiny.sum()),
        short_side=survey.sizes.min(axis=1),
        aspect=survey.sizes[:, 1] / survey.sizes[:, 0],
        bytes=survey.bytes,
        duplicates=[[source[index].key for index in group] for group in copies],
        sampled=len(measured),
        near=[(source[first].key, source[second].key) for first, second in near],
        brightness=np.array([each.brightness for each in measured]),
        objects_from=setting.judge.name,
        objects=objects,
        object_area=np.concatenate([each.areas for each in measured]),
        pairs=pairs,
        reading=sample.reading,
        size=setting.size,
        recommendation=recommend(facts),
        notes=[
            *notes,
            *_method_notes(source, survey, sample, setting, without_objects=int((objects == 0).sum())),
            *([f"crops are cut with {', '.join(f'{n}={v}' for n, v in settings.items())}"] if settings else []),
        ],
    )


def _expected_to_fail(source: Source, sample: Sample) -> float:
    """Return how many of all images have a good header but cannot be decoded, judged by those that were drawn."""
    return len(sample.skipped) / (len(sample.measured) + len(sample.skipped)) * len(source)


def _method_notes(
    source: Source, survey: Survey, sample: Sample, setting: Setting, *, without_objects: int
) -> list[str]:
    """Say how the figures were measured, and what was left out."""
    drawn, total = len(sample.measured) + len(sample.skipped), len(source)
    every = drawn == total
    looked_at = f"{len(sample.measured):,}"
    which = f"{looked_at} of {total:,} images, drawn by the seed (--limit)"
    if every:
        which = f"all {looked_at} images" + (" that can be read" if sample.skipped else "")
    notes = [
        f"brightness, near duplicates, objects and crops are those of {which}",
        f"crops are pairs of MoCo v2's views at {setting.size} px, {DRAWS} an image: those of the first {DRAWS} epochs "
        f"with seed {setting.seed}; intervals are 95 %, bootstrapped over images",
        f"near duplicates differ in at most {NEAR} of the 256 bits of a difference hash of the decoded image",
        f"times are means over {sample.reading.images} images at {sample.reading.size} px, one process, reduced-scale "
        "decoding as in training",
    ]
    if survey.copies is None:
        notes.append("duplicates were looked for among the decoded images only: these data are not one file an image")
    if not every and sample.skipped:
        notes.append(
            f"{len(sample.skipped)} of the {drawn:,} images drawn have a good header but cannot be decoded; of all "
            f"{total:,} about {_expected_to_fail(source, sample):,.0f} are to be expected"
        )
    if without_objects:
        notes.append(f"{without_objects:,} images have no object and do not count for the pairs with one in common")
    if setting.proposals is None:
        left = ", ".join(name for name in POLICIES if name not in setting.policies)
        notes.append(f"crops {left} need proposals (--proposals FILE) and were not measured")
    return notes
