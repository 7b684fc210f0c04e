"""The page of an audit: figures, drawings, and photos with their objects and sampled crops."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scenewise.errors import ImageError
from scenewise.evaluate.intervals import Figure
from scenewise.report.audit_page import AuditPage, PolicyRow
from scenewise.report.audit_sheet import CutPhoto, cut_sheet
from scenewise.report.page import Sheet
from scenewise.sources import Source
from scenewise.tools.audit_figures import Audit
from scenewise.tools.audit_pairs import crop_pairs, judge_cut, pair_slots
from scenewise.tools.audit_sample import Measured, Setting
from scenewise.tools.report import spread
from scenewise.views.decode import decode
from scenewise.views.policies import POLICIES

PHOTOS = 6  # of the sheet
PROPOSALS = 10  # shown of a photo, the best: those that object-aware cropping draws from


def audit_page(audit: Audit, source: Source, measured: Sequence[Measured], setting: Setting) -> AuditPage:
    """Return the page of an audit."""
    kinds = "the image's objects (green)" + ("" if setting.proposals is None else " and its best proposals (grey)")
    sheet = Sheet(
        png=cut_sheet(cut_photos(source, measured, setting)),
        caption=f"Photos with {kinds}, and for each crop policy the two views (blue, orange) of the first epoch.",
    )
    return AuditPage(
        title=f"Audit of {audit.data}",
        facts=audit.facts(),
        choice=audit.choice(),
        reasons=audit.recommendation.reasons,
        commands=audit.recommendation.commands,
        policies=[
            PolicyRow(
                name=name,
                title=POLICIES[name].title,
                common=None if found.common is None else _interval(found.common),
                overlap=_interval(found.overlap),
                fallback=found.fallback,
            )
            for name, found in audit.pairs.items()
        ],
        objects_from=audit.objects_from,
        histograms=list(audit.histograms().values()),
        sheets={"What the crops show": sheet},
        twins=[
            *((copy, f"the same bytes as {group[0]}") for group in audit.duplicates for copy in group[1:]),
            *((later, f"nearly {earlier}") for earlier, later in audit.near),
        ],
        unreadable=[(skip.key, skip.reason) for skip in audit.unreadable],
        notes=audit.notes,
    )


def cut_photos(source: Source, measured: Sequence[Measured], setting: Setting) -> list[CutPhoto]:
    """Return a few of the measured photos with their objects and the crops of the first epoch."""
    slots, photos = pair_slots(setting.size), []
    for place in spread(len(measured), PHOTOS):
        index, objects = measured[place].index, measured[place].objects
        record, proposals = source[index], setting.proposals_of(index)
        try:
            photo = decode(record.read(), record.size, record.orientation).pixels
        except ImageError:  # changed since it was measured
            continue
        cuts = {
            name: crop_pairs(policy, record.size, proposals, slots, seed=setting.seed, index=index, draws=1)
            for name, policy in setting.policies.items()
        }
        judged = {name: judge_cut(cut, objects) for name, cut in cuts.items()}
        photos.append(
            CutPhoto(
                photo=photo,
                objects=objects,
                proposals=np.zeros((0, 4)) if proposals is None else proposals[:PROPOSALS],
                pairs={name: cut.boxes[0] for name, cut in cuts.items()},
                told={
                    name: f"{_in_common(each.common, len(objects))}, IoU {each.overlap:.2f}"
                    for name, each in judged.items()
                },
                caption=Path(record.key).name,
            )
        )
    return photos


def _interval(figure: Figure) -> tuple[float, float, float]:
    return figure.value, figure.low, figure.high


def _in_common(share: float, objects: int) -> str:
    if not objects:
        return "no object known"
    return "object in common" if share > 0 else "nothing in common"
