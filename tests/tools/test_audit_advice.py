"""The recommendation is a function of the figures: each rule has its case, and names only what there is."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from scenewise.methods import method_names
from scenewise.tools.audit_advice import (
    EPOCHS,
    PROPOSAL_BYTES,
    RUN_BYTES,
    SIZES,
    Facts,
    choose_size,
    recommend,
    shown_bytes,
    shown_hours,
)
from scenewise.views.policies import POLICIES

PLAIN = Facts(
    data="PHOTOS",
    size=None,
    images=120_000,
    short_side=480.0,
    objects=1.2,
    missed={"scene": 0.02},
    fallbacks={"scene": 0.0},
    decode_seconds=0.004,
    view_seconds=0.002,
    proposals=None,
)
AWARE = dataclasses.replace(
    PLAIN,
    proposals="my file.arrow",
    missed={"scene": 0.2, "object": 0.05, "object-scene": 0.0, "object-shift": 0.0, "overlap": 0.15},
    fallbacks=dict.fromkeys(("scene", "object", "object-scene", "object-shift", "overlap"), 0.0),
)


def test_single_objects_get_the_plain_baseline() -> None:
    use = recommend(PLAIN)
    assert (use.method, use.crops, use.size, use.batch_size, use.epochs) == ("mocov2", "scene", 224, 256, 200)
    assert use.commands == (
        "scenewise pretrain PHOTOS --method mocov2 --size 224 --batch-size 256 --epochs 200 --out RUN",
    )
    assert use.reading_core_hours == pytest.approx(120_000 * 200 * (0.004 + 2 * 0.002) / 3600)


def test_several_objects_or_an_unknown_number_get_mls() -> None:
    assert recommend(dataclasses.replace(PLAIN, objects=3.1)).method == "mls"
    use = recommend(dataclasses.replace(PLAIN, objects=None))
    assert use.method == "mls"
    assert "not known" in use.reasons[0]


def test_small_images_get_their_size() -> None:
    use = recommend(dataclasses.replace(PLAIN, objects=3.1, short_side=64.0))
    assert (use.method, use.size) == ("mls", 64)
    assert recommend(dataclasses.replace(PLAIN, short_side=20.0)).size == min(SIZES)


@pytest.mark.parametrize("images", [2, 12, 31, 32, 33, 200])
def test_a_batch_is_never_larger_than_the_data(images: int) -> None:
    use = recommend(dataclasses.replace(PLAIN, images=images))
    assert use.batch_size == min(32, images)
    assert f"--batch-size {use.batch_size} " in use.commands[-1]


def test_packed_proposals_are_neither_made_nor_named() -> None:
    packed = recommend(dataclasses.replace(AWARE, proposals=None, packed=True))
    assert packed.commands == (recommend(AWARE).commands[-1].replace(" --proposals 'my file.arrow'", ""),)
    assert "--crops object" in packed.commands[0]


def test_object_crops_are_recommended_when_they_halve_the_missed_pairs() -> None:
    use = recommend(AWARE)
    assert (use.method, use.crops) == ("mocov2", "object")
    assert "--crops object --proposals 'my file.arrow'" in use.commands[-1]
    better = {**AWARE.missed, "overlap": 0.01}
    assert recommend(dataclasses.replace(AWARE, missed=better)).method == "univip"
    worse = {**AWARE.missed, "object": 0.11}
    assert recommend(dataclasses.replace(AWARE, missed=worse)).crops == "scene"
    rare = {**AWARE.missed, "scene": 0.04, "object": 0.0}
    assert recommend(dataclasses.replace(AWARE, missed=rare)).crops == "scene"


@pytest.mark.parametrize(("images", "unreadable", "share"), [(16, 5, "0.24"), (9900, 100, None), (3, 1, None)])
def test_the_command_allows_for_images_that_cannot_be_read(images: int, unreadable: int, share: str | None) -> None:
    use = recommend(dataclasses.replace(PLAIN, images=images, unreadable=unreadable))
    assert (f"--set data.max_skipped={share}" in use.commands[-1]) == (share is not None)
    assert ("cannot be read" in use.reasons[0]) == (share is not None)


def test_a_policy_is_recommended_with_the_settings_it_was_measured_with() -> None:
    least = "--set crops.min_window=0.5"
    options = {"scene": ("--set crops.scene_scale=0.3",), "object": (least,), "object-shift": (least,)}
    facts = dataclasses.replace(AWARE, options=options)
    assert recommend(facts).commands[-1].count(least) == 1
    assert "scene_scale" not in recommend(facts).commands[-1]
    again = recommend(dataclasses.replace(facts, proposals=None, missed={"scene": 0.3})).commands
    assert again[1].endswith(f"--proposals proposals.arrow --set crops.scene_scale=0.3 {least}")
    assert least not in again[2] and "scene_scale" in again[2]


def test_a_policy_that_mostly_falls_back_is_not_recommended() -> None:
    missed = {**AWARE.missed, "overlap": 0.0}
    fallbacks = {**AWARE.fallbacks, "overlap": 0.9}
    use = recommend(dataclasses.replace(AWARE, missed=missed, fallbacks=fallbacks))
    assert use.crops == "object" and any("overlap left out: most photos lack" in reason for reason in use.reasons)
    fallbacks |= {"object": 0.8}
    use = recommend(dataclasses.replace(AWARE, missed=missed, fallbacks=fallbacks))
    assert use.crops == "scene"
    assert any("lack (large enough) objects" in reason for reason in use.reasons)


def test_without_proposals_the_commands_make_them_first() -> None:
    use = recommend(dataclasses.replace(PLAIN, missed={"scene": 0.3}))
    assert use.crops == "scene"
    assert [command.split()[1] for command in use.commands] == ["propose", "audit", "pretrain"]
    labelled = recommend(dataclasses.replace(AWARE, proposals="labels"))
    assert "--proposals proposals.arrow" in labelled.commands[-1]
    assert all("labels" not in command for command in labelled.commands)


@pytest.mark.parametrize(("images", "batch", "epochs"), [(5_000_000, 256, 200), (20_000, 256, 500), (1_000, 32, 800)])
def test_batch_and_epochs_follow_the_number_of_images(images: int, batch: int, epochs: int) -> None:
    use = recommend(dataclasses.replace(PLAIN, images=images))
    assert (use.batch_size, use.epochs) == (batch, epochs)


def test_few_images_are_told_to_start_from_weights() -> None:
    assert any(reason.startswith("--init") for reason in recommend(dataclasses.replace(PLAIN, images=5000)).reasons)
    assert not any(reason.startswith("--init") for reason in recommend(PLAIN).reasons)


def test_whatever_the_figures_the_advice_names_what_there_is() -> None:
    for images, side, objects, facts in itertools.product(
        (0, 3, 4000, 10**7),
        (2.0, 100.0, 5000.0),
        (None, 0.5, 9.0),
        (PLAIN, AWARE, dataclasses.replace(PLAIN, missed={})),
    ):
        use = recommend(dataclasses.replace(facts, images=images, short_side=side, objects=objects))
        assert use.method in method_names()
        assert use.crops in POLICIES
        assert use.size in SIZES
        assert EPOCHS[0] <= use.epochs <= EPOCHS[1]
        assert use.reading_core_hours >= 0
        for start in ("method", "crops", "size", "batch", "epochs", "disk", "time"):
            assert any(reason.startswith(start) for reason in use.reasons), start


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (25_000_000, "25 MB"), (3e12, "3.0 TB")]
)
def test_bytes_are_shown_as_people_read_them(count: float, shown: str) -> None:
    assert shown_bytes(count) == shown


@pytest.mark.parametrize(
    ("hours", "shown"),
    [(0.0, "0 core-minutes"), (0.001, "1 core-minute"), (0.5, "30 core-minutes"), (1234.56, "1,234.6 core-hours")],
)
def test_times_are_shown_as_a_person_reads_them(hours: float, shown: str) -> None:
    assert shown_hours(hours) == shown


@pytest.mark.parametrize("images", [0, 1])
def test_a_folder_with_nothing_to_train_on_is_told_so(images: int) -> None:
    found = recommend(dataclasses.replace(PLAIN, images=images))
    assert "nothing to train on" in found.reasons[0]
    assert found.batch_size == 2
    assert found.reading_core_hours >= 0


def test_views_larger_than_the_photos_are_said_to_be_enlarged() -> None:
    assert "enlarged pixels already" in choose_size(28.0)[1]
    assert "larger views would be enlarged pixels" in choose_size(300.0)[1]


def test_what_the_proposals_cost_is_told_whenever_they_are_to_be_made() -> None:
    wanting = dataclasses.replace(PLAIN, images=10**6, proposals=None, packed=False, missed={"scene": 0.3})
    found = recommend(wanting)
    assert found.commands[0].startswith("scenewise propose ")
    assert found.disk_bytes == RUN_BYTES + 10**6 * PROPOSAL_BYTES
    assert any("38.9 core-hours of making proposals" in reason for reason in found.reasons)
    known = recommend(dataclasses.replace(wanting, proposals="p.arrow"))
    assert known.disk_bytes == RUN_BYTES
    assert not any("making proposals" in reason for reason in known.reasons)
