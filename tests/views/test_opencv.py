"""Two OpenCV distributions over one another are found before they do harm."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata

import pytest

from scenewise.errors import UserError
from scenewise.views.opencv import DISTRIBUTIONS, check_opencv


def installed(*names: str) -> Callable[[str], str]:
    def version(name: str) -> str:
        if name not in names:
            raise metadata.PackageNotFoundError(name)
        return "5.0.0"

    return version


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_one_distribution_is_fine(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(metadata, "version", installed(name))
    check_opencv()


def test_none_is_not_for_us_to_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", installed())
    check_opencv()


def test_two_are_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", installed("opencv-python", "opencv-contrib-python-headless"))
    with pytest.raises(UserError) as raised:
        check_opencv()
    assert "opencv-python, opencv-contrib-python-headless" in str(raised.value)
    assert (
        "pip uninstall -y opencv-python opencv-contrib-python-headless && pip install opencv-contrib-python-headless"
        in str(raised.value)
    )


def test_this_installation_is_clean() -> None:
    check_opencv()
