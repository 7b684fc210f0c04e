"""What every test relies on: nothing outside the test's own folders is written, no network, few threads."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the library is imported, hence before anything else
os.environ["MPLBACKEND"] = "Agg"

import scenewise  # noqa: F401, I001 - first, as in a user's program: it may set up libraries before they are used

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("scenewise", deadline=None)  # no test judges time
hypothesis.settings.load_profile("scenewise")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's cache folder out of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCENEWISE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Refuse every connection that leaves this machine, so that a test which needs one fails wherever it runs."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else "local"
        if host not in ("local", "localhost", "127.0.0.1", "::1", socket.gethostname()):
            raise PermissionError(f"a test tried to connect to {address!r}")
        connect(self, address)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        yield


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Return the folder of real photo collections, or skip."""
    named = os.environ.get("SCENEWISE_DATA")
    if not named:
        pytest.skip("needs real photos: set SCENEWISE_DATA to their folder")
    folder = Path(named)
    if not folder.is_dir():
        pytest.fail(f"SCENEWISE_DATA: no such folder: {folder}")
    return folder
