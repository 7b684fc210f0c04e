"""What the figures of an epoch mean, in plain words, and what to try when one is out of its healthy range."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from scenewise.report.waiting import WORTH_IT, cure, loading_of

Level = Literal["ok", "warn", "alarm"]
Unit = Literal["number", "share", "steps"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """What one figure says: `shown` is its value, `healthy` its range in words, `sentence` tells it and what to try."""

    level: Level
    figure: str
    value: float
    shown: str
    healthy: str
    sentence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One side of a figure's healthy range: `good="above"` means healthy at or above `healthy`.

    Beyond `alarm` (further out than `healthy`; None: never) the level is "alarm", between the two "warn".
    """

    figure: str
    quantity: str  # what the figure is called in a sentence
    good: Literal["above", "below"]
    healthy: float
    alarm: float | None
    trouble: str
    remedy: str
    unit: Unit = "number"

    def judge(self, value: float, remedy: str | None = None) -> Advice:
        """Return the advice for a finite value; `remedy` replaces the rule's own."""
        bound = f"{self.good} {show(self.healthy, self.unit)}"
        level = self._level(value)
        told = show(value, self.unit)
        if level == "ok":
            sentence = f"{self.quantity} {told} is healthy ({bound})"
        else:
            sentence = f"{self.trouble}: {self.quantity} {told}, healthy {bound}; try {remedy or self.remedy}"
        return Advice(level=level, figure=self.figure, value=value, shown=told, healthy=bound, sentence=sentence)

    def _level(self, value: float) -> Level:
        sign = 1 if self.good == "above" else -1
        if sign * value >= sign * self.healthy:
            return "ok"
        beyond = self.alarm is not None and sign * value < sign * self.alarm
        return "alarm" if beyond else "warn"


SPREAD = Rule(
    figure="health/feature_spread",
    quantity="spread",
    good="above",
    # 0.3 is a mean cosine of 0.9 between two images (spread^2 <= 1 - mean cosine); untrained ResNet-18 and -50 show
    # 0.52 on scene crops, so below 0.3 training has made directions more alike than chance weights do.
    healthy=0.3,
    alarm=0.1,  # mean cosine 0.99
    trouble="the features are collapsing",
    remedy="a lower learning rate (--lr), a longer warm-up, a slower teacher (method.momentum nearer 1)",
)

DATA_WAIT = Rule(
    figure="data_wait",
    quantity="share of time spent waiting for data",
    good="below",
    healthy=WORTH_IT,  # a tenth of the time is all that faster loading could win
    alarm=0.5,
    trouble="training waits for its data",
    remedy="more --workers, a smaller --size, photos stored at a lower resolution or on a faster disk",
    unit="share",
)

FALLBACK = Rule(
    figure="crops/fallback",
    quantity="share of images whose crops are plain ones",
    good="below",
    healthy=0.1,  # our choice: one image in ten without a usable object is what scenes have
    alarm=0.5,  # most of what is learnt is not what was asked for
    trouble="the crops that were asked for cannot be cut of many images",
    remedy=(
        "other proposals, a smaller crops.min_side (of overlap: crops.min_size, crops.instances), or --crops scene; "
        "`scenewise inspect` shows what is cut"
    ),
    unit="share",
)

RULES: tuple[Rule, ...] = (
    SPREAD,
    Rule(
        figure="health/effective_rank_share",
        quantity="effective rank as a share of what the sample allows",
        good="above",
        # On 512 rows isotropic features give 0.8 to 1, untrained ResNets on scene crops 0.35 to 0.53, singular values
        # that fall as i^-1.5 0.03 to 0.1, ten live dimensions 0.02 (the simulated ones are in the tests).
        healthy=0.1,
        alarm=0.02,
        trouble="the features use few of their dimensions",
        remedy="a larger batch or dictionary, a wider projection head (method.width), a lower learning rate",
        unit="share",
    ),
    Rule(
        figure="health/alignment",
        quantity="squared distance of two views",
        good="below",
        # Unrelated unit vectors are at 2; 1 is a cosine of 0.5, half way to unrelated.
        healthy=1.0,
        alarm=1.8,  # cosine 0.1
        trouble="two views of one image are far apart",
        remedy="larger or overlapping crops (`scenewise inspect` shows them), a weaker augmentation, more epochs",
    ),
    Rule(
        figure="health/uniformity",
        quantity="uniformity",
        good="below",
        # Even on the sphere: -4. All on one line: -0.7. Untrained ResNets with an untrained head: -0.4 to -0.9.
        healthy=-1.0,
        alarm=-0.3,
        trouble="the embeddings crowd in a small part of the sphere",
        remedy="a lower temperature (method.temperature), more negatives, a lower learning rate",
    ),
    Rule(
        figure="queue/age_steps",
        quantity="mean age of a row",
        good="below",
        # Rows of mean age 500 go back 1,000 steps: the memory 1 / (1 - m) of MoCo's teacher, m = 0.999. MoCo's own
        # queue (65,536 rows, batch 256) has a mean age of 128.
        healthy=500.0,
        alarm=None,
        trouble="the dictionary holds rows of a teacher that has since changed",
        remedy="a shorter dictionary (method.dictionary_size), a larger batch, a slower teacher (method.momentum)",
        unit="steps",
    ),
    Rule(
        figure="queue/fill",
        quantity="share of rows written",
        good="above",
        # An epoch writes a row an image, so only a dictionary longer than the data has empty rows after one.
        # All rows is the healthy state; 0.99 leaves out what is rounded away.
        healthy=0.99,
        alarm=None,
        trouble="the dictionary is not full after a whole epoch: it is longer than the data",
        remedy="at most a tenth of the number of images (method.dictionary_size)",
        unit="share",
    ),
    Rule(
        figure="labels/new_share",
        quantity="share of new pseudo-labels",
        good="below",
        # k rows of Q drawn at random are new with share 1 - k/Q: 0.95 at k = 10 and Q = 200, 0.995 in the paper.
        healthy=0.95,
        alarm=None,
        trouble="the pseudo-labels are little better than drawn at random",
        remedy="a longer warm-up (method.warmup), a smaller method.k, starting from trained weights (--init)",
        unit="share",
    ),
    Rule(
        figure="labels/own_image_share",
        quantity="share of pseudo-labels from the query's own image",
        good="below",
        healthy=0.05,  # one label in twenty: one of the paper's k = 20
        alarm=0.25,
        trouble="the pseudo-labels are largely older crops of the same image",
        remedy="method.mask_own_image=true, or a dictionary of at most a tenth of the images (method.dictionary_size)",
        unit="share",
    ),
    Rule(
        figure="relation/uniform_share",
        quantity="loss as a share of the logarithm of the queue's length",
        good="below",
        # Exactly 1 when every embedding is the same (papers of ReSSL and MSVQ: watch ln K).
        healthy=0.995,
        alarm=0.9995,
        trouble="the student predicts its soft labels no better than by guessing all rows alike",
        remedy="a sharper teacher (method.teacher_temperature 0.03), a lower learning rate (--lr), more epochs",
        unit="share",
    ),
    Rule(
        figure="codes/uniform_share",
        quantity="loss as a share of the logarithm of the number of prototypes",
        good="below",
        # Exactly 1 when the prototypes are all alike (SwAV's README: a loss stuck at ln 3000 = 8.006).
        healthy=0.995,
        alarm=0.9995,
        trouble="the assignments are predicted no better than by guessing all prototypes alike",
        remedy="method.epsilon=0.03, a longer method.freeze_epochs, fewer method.prototypes (SwAV's README)",
        unit="share",
    ),
    Rule(
        figure="ranking/saturated_share",
        quantity="share of queries that are ranked perfectly already",
        good="below",
        healthy=0.9,  # the gradient comes from the rest
        alarm=0.99,
        trouble="the ranking loss has little left to teach",
        remedy="a higher method.temperature, method.relaxation=hist, more images in a batch (--batch-size)",
        unit="share",
    ),
    FALLBACK,
    DATA_WAIT,
)

# What prevents a collapse differs: negatives in contrastive methods, predictor and teacher elsewhere (SPREAD).
COLLAPSE_REMEDIES: Mapping[str, str] = {
    "mls": (
        "a smaller weight of the multi-label term (method.weight), a longer warm-up of it (method.warmup), "
        "method.reduction=balanced, a lower learning rate (--lr)"
    ),
    "mocov2": "a lower learning rate (--lr), a longer dictionary (method.dictionary_size), a lower method.temperature",
    "densecl": "a lower learning rate (--lr), a longer dictionary (method.dictionary_size), a smaller method.weight",
    "simclr": "a lower learning rate (--lr), a larger batch (--batch-size), a lower method.temperature",
    "byol": "a lower learning rate (--lr), a slower teacher (method.momentum nearer 1), a longer warm-up",
    "msf": "a lower learning rate (--lr), a slower teacher (method.momentum nearer 1), fewer neighbours (method.k)",
    "ressl": "a sharper teacher (method.teacher_temperature 0.03), a lower learning rate (--lr), a longer warm-up",
    "msvq": "a sharper teacher (method.teacher_temperature 0.03), a lower learning rate (--lr), a longer warm-up",
    "swav": "method.epsilon=0.03, a longer method.freeze_epochs, a lower learning rate (--lr)",
    "univip": "a lower learning rate (--lr), a slower teacher (method.momentum nearer 1), a longer warm-up",
    "s2r2": "a lower learning rate (--lr), a higher method.temperature, more views (method.views)",
}

# What sets how strong a term of the loss is.
WEIGHTS: Mapping[str, str] = {
    "mls": "another weight of the extra term (method.weight) or another method.reduction",
    "densecl": "another weight of the dense term (method.weight)",
    "univip": "another method.scene_instance_weight or method.instance_weight",
}

GRADIENT_RATIO = 30.0  # beyond, the weaker term hardly matters; MLS at its default weight ends at 17 (first-run.md)
GRADIENT_ALARM = 100.0


def sentences(figures: Mapping[str, float | int], *, method: str) -> list[Advice]:
    """Return the advice for every figure that has a healthy range, the gravest first.

    figures: one epoch's, by their names in metrics.jsonl; unknown names are passed over, missing ones are fine. The
    norms `grad/TERM` are of terms of weight 1; where `weight/TERM` is there too, they are multiplied by it.
    method: its name; what to try against a collapse depends on it.
    """
    advice = [_not_finite(name, float(value)) for name, value in figures.items() if not math.isfinite(value)]
    finite = {name: float(value) for name, value in figures.items() if math.isfinite(value)}
    remedies = {SPREAD.figure: COLLAPSE_REMEDIES.get(method), DATA_WAIT.figure: _cure(finite)}
    for rule in RULES:
        if rule.figure in finite:
            advice.append(rule.judge(finite[rule.figure], remedies.get(rule.figure)))
    norms = {name: value for name, value in finite.items() if name.startswith("grad/")}
    advice += _gradients(
        {name: norm * finite.get(name.replace("grad/", "weight/"), 1.0) for name, norm in norms.items()},
        remedy=WEIGHTS.get(method, "another weight of the extra term"),
    )
    return sorted(advice, key=lambda item: ("alarm", "warn", "ok").index(item.level))


def _cure(figures: Mapping[str, float]) -> str | None:
    """Return what to try where a run waits for its data, as far as its figures say what the loading is spent on."""
    loading = loading_of(figures)
    return None if loading is None or DATA_WAIT.figure not in figures else cure(figures[DATA_WAIT.figure], loading)


def show(value: float, unit: Unit) -> str:
    """Return a figure as it is written in a sentence: a share in percent, steps whole, a number with two digits."""
    if unit == "share":
        percent = 100 * value
        return f"{percent:.0f} %" if percent == round(percent) or percent >= 10 else f"{percent:.1f} %"
    if unit == "steps":
        return f"{value:,.0f} steps"
    return f"{value:.2f}" if abs(value) >= 0.01 or value == 0 else f"{value:.1e}"


def _not_finite(name: str, value: float) -> Advice:
    return Advice(
        level="alarm",
        figure=name,
        value=value,
        shown=str(value),
        healthy="finite",
        sentence=f"the run has broken down: {name} is {value}; try a lower learning rate (--lr) or --precision 32",
    )


def _gradients(norms: Mapping[str, float], *, remedy: str) -> list[Advice]:
    """Return what the (weighted) gradient norms of the loss terms on the query embedding say, alone and in relation."""
    advice = []
    for name, norm in norms.items():
        if norm == 0:
            cause = "its weight is 0, its warm-up lasts, or its dictionary is empty"
            told = (
                f"the term {name.removeprefix('grad/')} gives no gradient: {cause}; try a look at the method's settings"
            )
            advice.append(Advice(level="warn", figure=name, value=norm, shown="0", healthy="above 0", sentence=told))
    moving = {name: norm for name, norm in norms.items() if norm > 0}
    if len(moving) < 2:
        return advice
    strong, weak = max(moving, key=moving.__getitem__), min(moving, key=moving.__getitem__)
    rule = Rule(
        figure=f"{strong} : {weak}",
        quantity="ratio of gradient norms",
        good="below",
        healthy=GRADIENT_RATIO,
        alarm=GRADIENT_ALARM,
        trouble=f"the term {strong.removeprefix('grad/')} drowns the term {weak.removeprefix('grad/')}",
        remedy=remedy,
    )
    return [*advice, rule.judge(moving[strong] / moving[weak])]
