"""Where frozen features are kept: one file each in the cache folder, safe to delete."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt64
from torch import nn

from scenewise.sources.cache import cache_folder
from scenewise.types import Skip


@dataclass(frozen=True, slots=True)
class Features:
    """Features (N, G) of the images that could be read; index (N,) are their numbers in the source.

    digest: (N,) of each image's pixels as the backbone saw them: equal for equal images. skipped: those left out, and
    why. notes: sentences on the cache. `labels[features.index]` are the labels that belong to the rows.
    """

    features: Float32[np.ndarray, "images features"]
    index: Int64[np.ndarray, " images"]
    digest: UInt64[np.ndarray, " images"]
    skipped: tuple[Skip, ...] = ()
    notes: tuple[str, ...] = ()


def content_digest(data: bytes | np.ndarray) -> int:
    """Return 64 bits of a digest of an image, as its file or its pixels: equal for equal images."""
    content = data if isinstance(data, bytes) else data.tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def weights_digest(backbone: nn.Module) -> str:
    """Return a hex digest of a network's structure and of all its parameters and buffers."""
    digest = hashlib.blake2b(repr(backbone).encode(), digest_size=16)
    for name, value in sorted(backbone.state_dict().items()):
        digest.update(f"\x1f{name} {value.dtype} {tuple(value.shape)}\x1f".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def cache_file(*parts: object) -> Path:
    """Return the file for features that depend on nothing but these parts (bytes, or values with a full repr)."""
    digest = hashlib.blake2b(digest_size=20)
    for part in parts:
        digest.update(part if isinstance(part, bytes) else repr(part).encode())
        digest.update(b"\x1f")
    return cache_folder() / "features" / f"{digest.hexdigest()}.npz"


def load(file: Path) -> Features | None:
    """Return what a cache file holds, or None when there is none or it is damaged (it is then written anew)."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
            skipped = json.loads(kept["skipped"].tobytes())
            return Features(kept["features"], kept["index"], kept["digest"], tuple(Skip(*entry) for entry in skipped))
    except (OSError, ValueError, KeyError, BadZipFile, EOFError, TypeError):
        return None


def store(file: Path, found: Features) -> Features:
    """Write to a temporary name beside the cache file and rename; a full disk costs a note, not the evaluation."""
    skipped = json.dumps([[entry.index, entry.key, entry.reason, entry.replacement] for entry in found.skipped])
    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=".", suffix=".tmp", delete=False) as stream:
            temporary = Path(stream.name)
            np.savez(
                stream,
                features=found.features,
                index=found.index,
                digest=found.digest,
                skipped=np.frombuffer(skipped.encode(), np.uint8),
            )
        temporary.replace(file)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        return replace(found, notes=(f"features were not kept in the cache folder ({error.strerror})",))
    return found
