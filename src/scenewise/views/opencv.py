"""OpenCV as an installation: one distribution only; and as a worker: single-threaded."""

from __future__ import annotations

from importlib import metadata

import cv2

from scenewise.errors import UserError

WANTED = "opencv-contrib-python-headless"
DISTRIBUTIONS = ("opencv-python", "opencv-contrib-python", "opencv-python-headless", WANTED)


def check_opencv() -> None:
    """Raise UserError when two OpenCV distributions are installed: they overwrite each other's files in one folder."""
    found = [name for name in DISTRIBUTIONS if _installed(name)]
    if len(found) > 1:
        raise UserError(
            f"opencv: {len(found)} distributions are installed over one another: {', '.join(found)}; allowed: one.\n"
            f"Cure: pip uninstall -y {' '.join(found)} && pip install {WANTED}"
        )


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def use_one_thread() -> None:
    """Make OpenCV work in the calling thread, for this process: workers do not oversubscribe, results do not vary."""
    cv2.setNumThreads(1)
