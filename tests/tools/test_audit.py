"""The audit of a folder, as a user meets it: its counts, its figures, its page, and what it refuses."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scenewise import api, cli
from scenewise.errors import UserError
from scenewise.proposals.rows import Row
from scenewise.proposals.store import Origin, write_store
from scenewise.sources import open_source
from scenewise.tools.audit_figures import Audit
from scenewise.views.policies import POLICIES

KEYS = {"images", "objects_per_image", "objects_from", "crop_pairs", "recommendation"}  # the contract's


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 12 photos, a copy of one, another compressed anew, a tiny one and three that are broken."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "deeper").mkdir()
    generator = np.random.default_rng(0)
    for number in range(12):
        coarse = generator.integers(0, 256, (6, 7, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((112, 96), Image.Resampling.BICUBIC).save(
            folder / f"{number:02}.jpg", quality=90
        )
    shutil.copy(folder / "03.jpg", folder / "deeper" / "copy of 03.jpg")
    with Image.open(folder / "05.jpg") as photo:
        photo.save(folder / "deeper" / "like 05.jpg", quality=70)
    Image.fromarray(generator.integers(0, 256, (20, 40, 3), dtype=np.uint8)).save(folder / "tiny.png")
    (folder / "cut.jpg").write_bytes((folder / "07.jpg").read_bytes()[:-300])
    (folder / "empty.jpg").touch()
    (folder / "<b>text.jpg").write_text("no photo")
    return folder


@pytest.fixture(scope="module")
def found(photos: Path) -> Audit:
    return api.audit(str(photos), size=64)


def test_images_are_counted(found: Audit) -> None:
    content = found.to_json()
    assert content["images"] == {"read": 15, "unreadable": 3, "tiny": 1, "duplicates": 1}
    assert content["near_duplicates"] == 1
    assert content["duplicate_images"] == [["03.jpg", "deeper/copy of 03.jpg"]]
    assert content["near_duplicate_images"] == [["05.jpg", "deeper/like 05.jpg"]]
    reasons = {row["image"]: row["reason"] for row in content["unreadable_images"]}
    assert reasons.keys() == {"cut.jpg", "empty.jpg", "<b>text.jpg"}
    assert "truncated JPEG" in reasons["cut.jpg"]
    assert reasons["empty.jpg"] == "empty file"
    assert content["bytes"] > 10_000


def test_the_json_is_the_contracts_and_finite(found: Audit) -> None:
    content = found.to_json()
    assert content.keys() >= KEYS
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["objects_from"] == "proposals made on the fly (spectral residual saliency)"
    assert content["crop_pairs"].keys() == {name for name, kind in POLICIES.items() if not kind.needs_proposals}
    for figures in content["crop_pairs"].values():
        assert figures.keys() == {"share_common_object", "mean_overlap"}
        assert all(0 <= value <= 1 for value in figures.values())
    assert content["recommendation"]["reasons"]
    assert content["quantiles"]["short_side"]["50 %"] == 96
    assert any("need proposals" in note for note in content["notes"])


def test_the_json_holds_the_histograms_of_the_page(found: Audit) -> None:
    drawn = found.to_json()["histograms"]
    assert drawn.keys() == found.spreads().keys()
    for name, values in found.spreads().items():
        assert len(drawn[name]["edges"]) == len(drawn[name]["counts"]) + 1
        assert sum(drawn[name]["counts"]) == len(values)
    assert drawn["brightness"]["edges"][0] == 0
    assert drawn["brightness"]["edges"][-1] == 1


def test_everything_is_judged_and_recommended_for_one_size(found: Audit, photos: Path) -> None:
    """That which is asked for, else that which is recommended: what object-aware crops cut depends on it."""
    chosen = api.audit(str(photos))
    assert (found.size, chosen.size) == (64, 96)
    for audit in (found, chosen):
        content = audit.to_json()
        assert content["seconds"]["size"] == content["recommendation"]["size"] == audit.size
        assert any(f"at {audit.size} px, one process" in note for note in content["notes"])
        assert any(f"views at {audit.size} px" in note for note in content["notes"])
        assert f"| with two views of {audit.size} px |" in audit.to_text()
    assert "size 64: asked for" in found.recommendation.reasons


def test_images_that_were_not_looked_at_are_not_counted(found: Audit, photos: Path) -> None:
    assert "crops are those of all 15 images that can be read" in "".join(found.to_json()["notes"])
    some = api.audit(str(photos), size=64, limit=15).to_json()
    assert some["sampled"] == 14
    assert "crops are those of 14 of 16 images, drawn by the seed (--limit)" in "".join(some["notes"])


def test_the_table_says_what_the_json_says(found: Audit) -> None:
    text = found.to_text()
    scene = found.to_json()["crop_pairs"]["scene"]
    assert f"| scene | {100 * scene['share_common_object']:.1f} [" in text
    assert "| read | 15 |" in text
    assert "cut.jpg: truncated JPEG" in text
    assert "same bytes: 03.jpg = deeper/copy of 03.jpg" in text


def stored(folder: Path, file: Path, generator: str) -> Path:
    """Write a proposal file with nested boxes of every readable image of a folder; return it."""
    source = open_source(str(folder))
    rows = []
    for index in range(len(source)):
        record = source[index]
        height, width = record.size
        nested = [[0, 0, width, height], [0, 0, width // 2, height // 2], [width // 2, height // 2, width, height]]
        rows.append(Row(record.key, record.size, np.array(nested, np.int32), None))
    origin = Origin(
        generator=generator,
        settings={},
        keep=10,
        max_iou=0.9,
        seed=0,
        versions={},
        source=source.spec,
        fingerprint=source.fingerprint,
        images=len(source),
    )
    write_store(file, origin, rows)
    return file


def test_crops_of_one_file_are_judged_by_another(photos: Path, tmp_path: Path) -> None:
    cutter = stored(photos, tmp_path / "grid.arrow", "grid")
    content = api.audit(str(photos), size=64, proposals=cutter).to_json()
    assert content["crop_pairs"].keys() == POLICIES.keys()
    assert "saliency" in content["objects_from"]
    assert not any("upper bounds" in note for note in content["notes"])
    other = stored(photos, tmp_path / "other.arrow", "bing")
    content = api.audit(str(photos), size=64, proposals=cutter, judge=other).to_json()
    assert content["objects_from"] == f"proposals of {other} (bing)"
    assert not any("upper bounds" in note for note in content["notes"])
    assert 2 < content["objects_per_image"] <= 3  # the tiny image's boxes are too small to be objects
    same = api.audit(str(photos), size=64, proposals=cutter, judge=cutter).to_json()
    assert any("upper bounds" in note for note in same["notes"])


def test_proposals_of_another_folder_are_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "others").mkdir()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "others" / "black.png")
    file = stored(tmp_path / "others", tmp_path / "others.arrow", "grid")
    for option in ("proposals", "judge"):
        with pytest.raises(UserError, match=r"has none for 16 of 16 images"):
            api.audit(str(photos), **{option: file})


def test_proposals_that_were_packed_are_cut_by_and_need_no_name(tmp_path: Path) -> None:
    file, shards = tmp_path / "p.arrow", f"shards:{tmp_path / 's'}"
    api.propose("synthetic:12", out=file, generator="grid", keep=20, workers=0)
    api.pack("synthetic:12", out=tmp_path / "s", proposals=file, workers=0)
    taken, named = (
        api.audit(shards, size=64, proposals=own).to_json() for own in (None, tmp_path / "s" / "proposals-train.arrow")
    )
    assert taken["crop_pairs"].keys() == POLICIES.keys()
    assert taken["crop_pairs"] == named["crop_pairs"]
    assert [any("packed with the images" in note for note in each["notes"]) for each in (taken, named)] == [True, False]
    assert not any("--proposals" in line for line in taken["recommendation"]["commands"])
    without = api.audit(f"{shards}?split=test", size=64).to_json()
    assert "object" not in without["crop_pairs"]
    assert not any("packed with the images" in note for note in without["notes"])


def timeless(audit: Audit) -> dict[str, Any]:
    """Return the figures without those that time has a part in."""
    content = audit.to_json()
    del content["seconds"], content["recommendation"]
    return content


def test_figures_do_not_depend_on_workers_and_do_on_the_seed(photos: Path, found: Audit) -> None:
    assert timeless(api.audit(str(photos), size=64, workers=2)) == timeless(found)
    assert timeless(api.audit(str(photos), size=64, seed=1)) != timeless(found)


def test_the_recommended_command_is_not_refused_for_what_the_audit_has_seen(
    photos: Path, tmp_path: Path, found: Audit
) -> None:
    arguments = shlex.split(found.recommendation.commands[-1])[1:]
    arguments[arguments.index("--out") + 1] = str(tmp_path / "run")
    quick = ["--epochs", "0", "--backbone", "test_resnet", "--workers", "0", "--device", "cpu"]
    assert cli.run([*arguments, *quick]) == 0


def test_policies_are_judged_with_the_settings_asked_for(photos: Path, found: Audit) -> None:
    larger = api.audit(str(photos), size=64, settings={"crops.scene_scale": 0.8, "crops.min_window": 0.5})
    overlap, before = (each.to_json()["crop_pairs"]["scene"]["mean_overlap"] for each in (larger, found))
    assert overlap > before + 0.2
    assert "crops are cut with crops.scene_scale=0.8, crops.min_window=0.5" in larger.to_json()["notes"]
    assert "--set crops.scene_scale=0.8" in larger.recommendation.commands[-1]


def test_a_sample_says_that_it_is_one(photos: Path) -> None:
    content = api.audit(str(photos), size=64, limit=6).to_json()
    assert content["sampled"] <= 6
    assert content["images"]["duplicates"] == 1  # compared as files, all of them
    assert any("6 of 16 images" in note for note in content["notes"])


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """Return the JSON and the page of an audit of generated scenes, crops cut by the labelled boxes."""
    folder = tmp_path_factory.mktemp("audit")
    arguments = ["--proposals", "labels", "--size", "96", "--limit", "50"]
    outputs = ["--json", str(folder / "audit.json"), "--html", str(folder / "audit.html")]
    assert cli.run(["audit", "synthetic:300", *arguments, *outputs]) == 0
    return json.loads((folder / "audit.json").read_text()), (folder / "audit.html").read_text()


def test_object_aware_crops_at_least_halve_the_pairs_without_a_common_object(
    ablation: tuple[dict[str, Any], str],
) -> None:
    missed = {name: 1 - figures["share_common_object"] for name, figures in ablation[0]["crop_pairs"].items()}
    assert missed.keys() == POLICIES.keys()
    assert missed["scene"] > 0.03  # there is something to repair
    assert missed["object"] <= missed["scene"] / 2
    assert missed["overlap"] <= missed["scene"] / 2  # its fallback mostly: few crops hold four labelled boxes
    two = api.audit("synthetic:300", proposals="labels", size=96, limit=50, settings={"crops.instances": 2}).pairs
    overlap, scene = two["overlap"].common, two["scene"].common
    assert overlap is not None and scene is not None and two["overlap"].fallback < 0.5
    assert 1 - overlap.value <= (1 - scene.value) / 2


def test_labels_as_proposals_are_called_an_ablation(ablation: tuple[dict[str, Any], str]) -> None:
    content = ablation[0]
    assert content["objects_from"] == "labels"
    assert 2 <= content["objects_per_image"] <= 6
    assert any("ablation" in note for note in content["notes"])
    assert any("upper bounds" in note for note in content["notes"])
    assert content["bytes"] is None


def test_the_page_is_one_file_that_shows_every_policy(ablation: tuple[dict[str, Any], str]) -> None:
    page = ablation[1]
    assert all(f'<th scope="row">{name}<' in page for name in POLICIES)
    assert "data:image/png;base64," in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "<script" not in page


def test_names_of_files_are_text_on_the_page(photos: Path, tmp_path: Path) -> None:
    api.audit(str(photos), size=64, html=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "&lt;b&gt;text.jpg" in page
    assert "<b>text" not in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html"]


def test_wrong_input_is_refused_before_any_work(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "there.html").write_text("mine")
    refused = {
        "no such folder": {"data": str(tmp_path / "nowhere")},
        "is empty": {"data": str(tmp_path / "empty")},
        r"--html: cannot write .* folder that exists": {"data": "nowhere", "html": tmp_path / "no" / "page.html"},
        r"--html: .* exists; .* --overwrite": {"data": "nowhere", "html": tmp_path / "there.html"},
        "--limit: 0": {"data": "nowhere", "limit": 0},
        "--size: 8": {"data": "nowhere", "size": 8},
        "--proposals: 'auto'": {"data": "nowhere", "proposals": "auto"},
        "--judge: 'auto'": {"data": "nowhere", "judge": "auto"},
        r"crops\.min_window: 2 must be 0 to 1": {"data": "nowhere", "settings": {"crops.min_window": 2}},
        r"unknown name 'crops\.min_windows'\. Did you mean 'crops\.min_window'": {
            "data": "nowhere",
            "settings": {"crops.min_windows": 0.5},
        },
        "--proposals: .* no labelled boxes; name a file of `scenewise propose`$": {
            "data": str(photos),
            "proposals": "labels",
        },
        "no labelled boxes; name a file of proposals, or saliency": {"data": str(photos), "judge": "labels"},
        "--judge: no such file: .*gone.arrow": {"data": "nowhere", "judge": tmp_path / "gone.arrow"},
        "--judge: no such file: 'salience'; make it .*, or did you mean 'saliency'": {"data": "n", "judge": "salience"},
        "--judge: no such file: 'label'; make it .*, or did you mean 'labels'": {"data": "n", "judge": "label"},
        "--proposals: no such file: .*gone.arrow": {"data": "nowhere", "proposals": tmp_path / "gone.arrow"},
    }
    for message, arguments in refused.items():
        with pytest.raises(UserError, match=message):
            api.audit(**arguments)
    assert (tmp_path / "there.html").read_text() == "mine"
    api.audit(str(photos), size=64, limit=3, html=tmp_path / "there.html", overwrite=True)
    assert "<html" in (tmp_path / "there.html").read_text()


def test_a_folder_of_broken_files_is_named(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    (tmp_path / "photo.jpg").write_bytes((tmp_path / "photo.jpg").read_bytes()[:-200])
    with pytest.raises(UserError, match=r"photo\.jpg: truncated JPEG"):
        api.audit(str(tmp_path))


def test_an_interrupted_audit_exits_by_its_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "audit", stop)
    assert cli.run(["audit", "photos"]) == 130
    assert cli.run(["audit", "photos", "--json", "no/such/folder/file.json"]) == 2
