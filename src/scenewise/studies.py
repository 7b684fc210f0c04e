"""What a study is: arms that are compared at equal compute, on the same images, by the same protocols.

A study is a Python file that exports one `STUDY`; `scenewise study FILE --out DIR` carries it out (docs/studies.md). It
is code, so it is run as any program is: run your own.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Settings = Mapping[str, Any]  # by dotted name, as `--set` takes them, or in sections: {"method.k": 10}


def rates(*values: float) -> tuple[Settings, ...]:
    """Return a learning-rate budget for `Arm.tries`: rates for 256 images a step."""
    return every({"optimiser.lr": values})


def every(choices: Mapping[str, Sequence[Any]]) -> tuple[Settings, ...]:
    """Return every combination of the values of several settings, the last setting varying first."""
    return tuple(dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Labelled images: what a protocol learns on and what it is judged on, two specs of data."""

    train: str
    test: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Boxes:
    """Object proposals that the study makes once for its pool, as `scenewise propose` does.

    like: the name of other boxes of the study, whose sizes those of the generator `random` take.
    """

    generator: Literal["selective-search", "bing", "random", "grid", "labels"] = "selective-search"
    like: str | None = None
    mode: str | None = None  # of selective-search
    working_size: int | None = None  # of selective-search: pixels of the shorter side
    bing_model: str | None = None  # folder of its files
    keep: int = 1000  # boxes of an image at most: the command's default
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """A row of the table: runs that differ in nothing but their seed.

    method: None: nothing is trained, `init` is judged as it is. init: a subject to start from. crops: the method's
    usual ones by default. proposals: the name of one of the study's boxes, or a file. settings: over the study's.
    tries: settings that are tried with the first seed; the best on `Study.choose_on` is kept. control: the label of the
    arm that this one is compared to. about: a remark for the table's reader.
    """

    label: str
    method: str | None = None
    init: str | None = None
    crops: str | None = None
    proposals: str | None = None
    seeds: tuple[int, ...] = (0,)
    settings: Settings = field(default_factory=dict)
    tries: tuple[Settings, ...] = ()
    control: str | None = None
    about: str = ""

    @property
    def seedless(self) -> bool:
        """Return whether no seed changes the arm's weights: published ones, or a file, as they are."""
        return self.method is None and not (self.init or "").startswith("random:")


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What is to be seen whether it holds, with a figure of its own.

    name: short, that of its file. says: the claim, and whose it is. arms: the labels of its rows, in the figure's
    order. verdict: what the figures say of it, written once they are there.
    """

    name: str
    says: str
    arms: tuple[str, ...]
    verdict: str = "not written yet"


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A grid of arms and what they have in common.

    data: the pool, one spec; several become one folder of links. size: pixels of a view, in training and in evaluation.
    test_on: looked at once for each run, after all choices. choose_on: what choices are made on; needed where an arm
    has `tries`. claims: what the arms are there for. choose_by: the protocol whose main figure decides; None: the
    first. protocol_settings: by dotted name, {"knn.k": 200}. passes: the compute of a run in encoder passes an image of
    the pool (forward 1, forward and backward 3; `scenewise methods` lists what a step costs), of which epochs are
    derived; None: `engine.epochs` of the settings, for arms that repeat published runs. settings: of every run, under
    the arm's own.
    """

    name: str
    data: str | tuple[str, ...]
    size: int
    test_on: Split
    arms: tuple[Arm, ...]
    claims: tuple[Claim, ...] = ()
    choose_on: Split | None = None
    choose_by: str | None = None
    protocols: tuple[str, ...] = ("knn", "linear")
    protocol_settings: Settings = field(default_factory=dict)
    min_positives: int = 1
    limit: int | None = None
    passes: float | None = None
    settings: Settings = field(default_factory=dict)
    boxes: Mapping[str, Boxes] = field(default_factory=dict)
    evaluation_seed: int = 0  # of protocols and of the bootstrap: one for all, or differences could not be paired
    about: str = ""
