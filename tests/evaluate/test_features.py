"""Feature extraction: order, precision, unreadable images, and the cache."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scenewise.errors import UserError
from scenewise.evaluate.feature_cache import weights_digest
from scenewise.evaluate.features import extract_features
from scenewise.views.collate import normalise
from scenewise.views.pipeline import test_view as make_test_view


def test_features_are_those_of_each_image_alone(backbone, make_source):
    source = make_source("train", 25)
    found = extract_features(backbone, source, size=8, batch_size=7)
    assert found.features.dtype == np.float32 and found.index.tolist() == list(range(25))
    for index in (0, 6, 7, 24):
        view = torch.tensor(make_test_view(source[index], size=8)).permute(2, 0, 1)[None]
        with torch.no_grad():
            expected = backbone(normalise(view))[0].numpy()
        np.testing.assert_allclose(found.features[index], expected, rtol=1e-5, atol=1e-6)


def test_the_backbone_runs_in_eval_mode_without_gradient_and_keeps_its_mode(backbone, make_source):
    extract_features(backbone, make_source("train", 10), size=8, batch_size=4)
    assert backbone.calls == [(4, False, False), (4, False, False), (2, False, False)]
    assert backbone.training and torch.is_grad_enabled()
    extract_features(backbone.eval(), make_source("train", 10), size=8)
    assert not backbone.training


def test_unreadable_images_are_left_out_named_and_counted(backbone, make_source):
    source = make_source("train", 12, bad=(0, 5, 11))
    seen = []
    found = extract_features(
        backbone, source, size=8, batch_size=3, progress=lambda what, done, total: seen.append((what, done, total))
    )
    assert found.index.tolist() == [1, 2, 3, 4, 6, 7, 8, 9, 10] and len(found.features) == len(found.digest) == 9
    assert [(skip.index, skip.key, skip.reason) for skip in found.skipped] == [
        (0, "0.png", "truncated"),
        (5, "5.png", "truncated"),
        (11, "11.png", "truncated"),
    ]
    assert seen == [("features", 3, 12), ("features", 6, 12), ("features", 9, 12), ("features", 12, 12)]
    with pytest.raises(UserError, match="none of 3 images could be read; truncated"):
        extract_features(backbone, make_source("train", 3, bad=(0, 1, 2)), size=8)


def test_a_choice_of_images_keeps_its_order(backbone, make_source):
    source = make_source("train", 12)
    whole = extract_features(backbone, source, size=8)
    found = extract_features(backbone, source, size=8, indices=[9, 2, 4])
    assert found.index.tolist() == [9, 2, 4]
    np.testing.assert_allclose(found.features, whole.features[[9, 2, 4]], rtol=1e-6)
    assert found.digest.tolist() == whole.digest[[9, 2, 4]].tolist()


def test_workers_change_nothing(backbone, make_source):
    source = make_source("train", 9, bad=(4,))
    alone = extract_features(backbone, source, size=8, batch_size=2)
    helped = extract_features(backbone, source, size=8, batch_size=2, workers=2)
    assert np.array_equal(alone.features, helped.features) and alone.skipped == helped.skipped
    assert np.array_equal(alone.index, helped.index) and np.array_equal(alone.digest, helped.digest)


def test_cached_features_are_the_same_and_read_no_image(backbone, make_source, cache):
    source = make_source("train", 12, bad=(3,))
    key = weights_digest(backbone)
    first = extract_features(backbone, source, size=8, cache_key=key)
    reads, calls = source.read_count, len(backbone.calls)
    again = extract_features(backbone, source, size=8, cache_key=key)
    assert source.read_count == reads and len(backbone.calls) == calls
    assert np.array_equal(first.features, again.features) and np.array_equal(first.index, again.index)
    assert np.array_equal(first.digest, again.digest) and again.skipped == first.skipped
    (file,) = (cache / "features").iterdir()
    for damage in (b"", file.read_bytes()[:200], b"not an archive"):
        file.write_bytes(damage)
        repaired = extract_features(backbone, source, size=8, cache_key=key)
        assert np.array_equal(first.features, repaired.features)
    assert [entry.name for entry in (cache / "features").iterdir()] == [file.name]
    file.unlink()
    assert np.array_equal(first.features, extract_features(backbone, source, size=8, cache_key=key).features)


def test_whatever_changes_the_features_changes_the_cache_file(backbone, make_source, cache):
    def files(**changed):
        arguments = {"size": 8, "cache_key": weights_digest(backbone)} | changed
        extract_features(backbone, arguments.pop("source", make_source("train", 4)), **arguments)
        return len(list((cache / "features").iterdir()))

    assert files() == 1 and files() == 1
    assert files(size=9) == 2
    assert files(source=make_source("other", 4)) == 3
    assert files(indices=[0, 1]) == 4
    assert files(mean=(0.5, 0.5, 0.5)) == 5
    with torch.no_grad():
        backbone.weight[2] += 1e-6
    assert files() == 6
    assert files(batch_size=2) == 6


def test_a_cache_that_cannot_be_written_costs_a_note(backbone, make_source, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("scenewise.evaluate.feature_cache.np.savez", full)
    found = extract_features(backbone, make_source("train", 4), size=8, cache_key="key")
    assert len(found.features) == 4
    assert found.notes == ("features were not kept in the cache folder (No space left on device)",)


def test_equal_images_have_equal_digests(backbone, make_source):
    source, same = make_source("train", 5), make_source("train", 5)
    first, second = (extract_features(backbone, each, size=8) for each in (source, same))
    assert np.array_equal(first.digest, second.digest) and len(set(first.digest.tolist())) == 5
