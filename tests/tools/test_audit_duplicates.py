"""Copies are found, and nothing else, as comparing everything with everything would find them."""

from __future__ import annotations

from pathlib import Path

import cv2
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from scenewise.sources.headers import FileReader
from scenewise.tools.audit_duplicates import NEAR, TAIL, difference_hash, near_pairs, same_bytes, same_content


def groups_of(files: list[bytes], folder: Path) -> list[list[int]]:
    for number, content in enumerate(files):
        (folder / f"{number}").write_bytes(content)
    lengths = np.array([len(content) for content in files], np.int64)
    return same_bytes(lengths, lambda index: FileReader(bytes(folder / f"{index}"), len(files[index]), 0))


def test_only_files_with_the_same_bytes_are_grouped(tmp_path: Path) -> None:
    tail = bytes(TAIL)
    files = [b"a" + tail, b"b" + tail, b"a" + tail, b"short", b"", b"b" + tail, b"", b"shorx", b"a" + tail]
    assert groups_of(files, tmp_path) == [[0, 2, 8], [1, 5], [4, 6]]


@settings(max_examples=20)
@given(st.lists(st.binary(max_size=3), max_size=12))
def test_groups_are_those_of_comparing_all(tmp_path_factory: pytest.TempPathFactory, files: list[bytes]) -> None:
    expected = [[k for k, other in enumerate(files) if other == content] for content in dict.fromkeys(files)]
    assert groups_of(files, tmp_path_factory.mktemp("files")) == sorted(group for group in expected if len(group) > 1)


def test_a_file_that_is_gone_is_like_no_other(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"same")
    readers = [FileReader(bytes(tmp_path / name), 4, 0) for name in ("gone", "there", "gone too")]
    assert same_bytes(np.array([4, 4, 4]), readers.__getitem__) == []
    assert same_content([None, None, b"x"]) == []


def flipped(look: np.ndarray, bits: int, generator: np.random.Generator) -> np.ndarray:
    every = np.unpackbits(look.view(np.uint8))
    every[generator.choice(256, bits, replace=False)] ^= 1
    return np.packbits(every).view(np.uint64)


@pytest.mark.parametrize("seed", range(3))
def test_near_pairs_are_those_of_comparing_all(seed: int) -> None:
    generator = np.random.default_rng(seed)
    looks = list(generator.integers(0, 2**63, (60, 4)).astype(np.uint64))
    looks += [flipped(looks[number], bits, generator) for number, bits in enumerate((0, 1, 8, 15, 16, 20, 15, 14))]
    hashes = np.stack(looks)
    bits = np.unpackbits(hashes.view(np.uint8), axis=1).astype(int)
    distance = np.abs(bits[:, None] - bits[None]).sum(axis=2)
    expected = [(i, j) for i in range(len(bits)) for j in range(i + 1, len(bits)) if distance[i, j] <= NEAR]
    assert [tuple(pair) for pair in near_pairs(hashes).tolist()] == expected
    assert (0, 60) in expected
    assert (4, 64) not in expected


def test_thousands_of_equal_images_do_not_make_millions_of_pairs() -> None:
    pairs = near_pairs(np.zeros((3000, 4), np.uint64))
    assert set(pairs[:, 1].tolist()) == set(range(1, 3000))  # each has an earlier one
    assert len(pairs) <= 64 * 3000
    assert len(near_pairs(np.zeros((0, 4), np.uint64))) == len(near_pairs(np.zeros((1, 4), np.uint64))) == 0


def test_more_bits_than_the_bands_can_find_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 15"):
        near_pairs(np.zeros((2, 4), np.uint64), near=16)


def scene(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return cv2.resize(coarse, (180, 140), interpolation=cv2.INTER_CUBIC)


def test_the_hash_stays_when_a_photo_is_shrunk_or_compressed_and_differs_between_photos() -> None:
    def distance(first: np.ndarray, second: np.ndarray) -> int:
        return int(np.bitwise_count(difference_hash(first) ^ difference_hash(second)).sum())

    photo = scene(0)
    smaller = cv2.resize(photo, (90, 70), interpolation=cv2.INTER_AREA)
    _, file = cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, 70])
    assert distance(photo, smaller) <= NEAR
    assert distance(photo, cv2.imdecode(file, cv2.IMREAD_COLOR)) <= NEAR
    assert distance(photo, np.clip(photo.astype(int) // 2 + 40, 0, 255).astype(np.uint8)) <= NEAR
    assert distance(photo, scene(1)) > 3 * NEAR
    assert distance(photo, photo[:, ::-1].copy()) > 3 * NEAR


def test_the_hash_is_that_of_its_definition() -> None:
    photo = scene(2)[:128, :136]  # cells of 8 x 8 pixels
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY).astype(float)
    cells = np.rint(grey.reshape(16, 8, 17, 8).mean(axis=(1, 3)))
    darker = cells[:, :-1] < cells[:, 1:]
    found = np.unpackbits(difference_hash(photo).view(np.uint8)).reshape(16, 16)  # (band, row): band k is column k
    assert (found.T.astype(bool) == darker).mean() > 0.98  # OpenCV may round a half the other way
