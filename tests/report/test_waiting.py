"""What to try against waiting for data: a pure function, judged by a small model of a loader."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from scenewise.report.verdict import DATA_WAIT, sentences
from scenewise.report.waiting import Loading, cure, loading_of, workers_needed

TIMES = st.floats(0.0, 1000.0)
CORES = st.integers(1, 128)
WAITS = st.floats(0.1, 1.0)


@st.composite
def loadings(draw: st.DrawFn) -> Loading:
    cores = draw(CORES)
    return Loading(
        read=draw(TIMES),
        decode=draw(TIMES),
        rest=draw(TIMES),
        megapixels=draw(st.floats(0.01, 100.0)),
        size=float(draw(st.integers(16, 512))),
        workers=float(draw(st.integers(0, 2 * cores))),
        cores=float(cores),
        movable=float(draw(st.booleans())),
    )


ORDINARY = Loading(
    read=1.0, decode=6.0, rest=3.0, megapixels=0.27, size=224.0, workers=8.0, cores=8.0, movable=0.0
)  # 640 x 427 pixels, one worker a core


def figures(loading: Loading, wait: float) -> dict[str, float]:
    return {f"loading/{name}": value for name, value in dataclasses.asdict(loading).items()} | {"data_wait": wait}


@given(wait=st.floats(0.1, 0.99), workers=st.integers(1, 64), cores=CORES)
def test_with_the_workers_named_a_loader_keeps_up_unless_the_cores_run_out(
    wait: float, workers: int, cores: int
) -> None:
    """Of a step of 1, `wait` is waited: `workers` processes take `workers` for its images, k of them that over k."""
    assume(workers < cores)
    found = workers_needed(wait, workers=workers, cores=cores)
    assert workers < found <= cores
    keeps_up = [count for count in range(workers + 1, cores + 1) if workers / count <= 1 - wait + 1e-6]
    assert found == (keeps_up[0] if keeps_up else cores)


@given(wait=WAITS, cores=CORES)
def test_a_run_without_workers_gets_as_many_as_hide_its_loading(wait: float, cores: int) -> None:
    found = workers_needed(wait, workers=0, cores=cores)
    assert 1 <= found <= cores
    assert found == cores or wait / found <= 1 - wait + 1e-6


@given(wait=WAITS, loading=loadings())
def test_what_is_named_can_be_done_and_pays(wait: float, loading: Loading) -> None:
    told = cure(wait, loading)
    asked = re.search(r"--workers (\d+)", told)
    assert (asked is not None) == (loading.workers < loading.cores)
    if asked:
        assert loading.workers < int(asked[1]) <= loading.cores
    whole = loading.read + loading.decode + loading.rest
    photometrics = "engine.photometrics=device" in told
    assert photometrics == bool(loading.movable and whole and loading.rest / whole >= 0.1)
    if "scenewise pack" in told:
        side = int(re.findall(r"--short-side (\d+)", told)[0])
        assert loading.decode == max(loading.read, loading.decode, loading.rest)
        assert 1e6 * loading.megapixels >= 4 * side * side  # far more pixels than would be packed
        assert side >= loading.size
    limits = ("the limit" in told) + ("cores are the limit" in told)
    assert (limits > 0) == (asked is None and not photometrics and "scenewise pack" not in told)


@given(wait=WAITS, loading=loadings(), factor=st.sampled_from([0.25, 0.5, 2.0, 4.0]))
def test_only_the_shares_of_the_loading_count(wait: float, loading: Loading, factor: float) -> None:
    assume(all(value == 0 or value > 1e-3 for value in (loading.read, loading.decode, loading.rest)))
    slower = dataclasses.replace(
        loading, read=factor * loading.read, decode=factor * loading.decode, rest=factor * loading.rest
    )
    assert cure(wait, slower) == cure(wait, loading)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"workers": 2.0}, "--workers 4 (now 2, on 8 cores)"),
        ({"workers": 0.0, "cores": 1.0}, "--workers 1 (now 0, on 1 core)"),
        (
            {"movable": 1.0, "rest": 13.0},
            "engine.photometrics=device (crops, colour and blur by the processor are 65 % of the loading)",
        ),
        (
            {"megapixels": 12.2, "decode": 96.0},
            "`scenewise pack` with --short-side 320 (decoding photos of 12.2 megapixels for views of 224 pixels is "
            "96 % of the loading)",
        ),
        (
            {"read": 91.0},
            "a faster disk, or, of shards at an address, more --workers than cores: reading files is the limit, "
            "91 % of the loading",
        ),
        (
            {},
            "more cores or a smaller --size: the cores are the limit, 8 workers on 8 cores, 60 % of the loading is "
            "decoding and 30 % crops and colours",
        ),
    ],
)
def test_the_words(change: dict[str, float], expected: str) -> None:
    assert cure(0.5, dataclasses.replace(ORDINARY, **change)) == expected


def test_the_verdict_says_it_where_the_figures_are_there_and_elsewhere_the_general_words() -> None:
    (known,) = sentences(figures(ORDINARY, 0.4), method="mls")
    assert known.level == "warn" and known.figure == DATA_WAIT.figure
    assert known.sentence == (
        "training waits for its data: share of time spent waiting for data 40 %, healthy below 10 %; try "
        + cure(0.4, ORDINARY)
    )
    (unknown,) = sentences({"data_wait": 0.4}, method="mls")
    assert unknown.sentence.endswith("try " + DATA_WAIT.remedy)
    (healthy,) = sentences(figures(ORDINARY, 0.09), method="mls")
    assert healthy.level == "ok" and "try" not in healthy.sentence


def test_figures_that_are_not_complete_say_nothing() -> None:
    whole = figures(ORDINARY, 0.4)
    assert loading_of(whole) == ORDINARY
    for name in whole:
        if name.startswith("loading/"):
            assert loading_of({other: value for other, value in whole.items() if other != name}) is None
            assert loading_of(whole | {name: float("nan")}) is None
