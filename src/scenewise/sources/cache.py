"""Where file indexes and frozen features are kept: one folder per user, safe to delete, never beside the data."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from scenewise.errors import UserError


def cache_folder() -> Path:
    """Return the cache folder, made if missing: `SCENEWISE_CACHE`, else the user's cache directory of the system.

    Raises UserError when it cannot be made or written.
    """
    wanted = os.environ.get("SCENEWISE_CACHE")
    folder = Path(wanted).expanduser() if wanted else platformdirs.user_cache_path("scenewise")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cache: cannot make {folder} ({error.strerror}); set SCENEWISE_CACHE to another folder"
        ) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"cache: {folder} is not writable; set SCENEWISE_CACHE to another folder")
    return folder.absolute()
