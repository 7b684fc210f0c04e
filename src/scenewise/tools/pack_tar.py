"""Tar files that grow by one image after another, whose bytes depend on their content alone."""

from __future__ import annotations

import hashlib
import os
import tarfile
from pathlib import Path
from typing import NamedTuple

from scenewise.errors import UserError

_HASHED = 2**22  # bytes read at once


class Place(NamedTuple):
    """Where an image's bytes begin in its tar file, and where the file goes on after its sidecar."""

    offset: int
    end: int


def member(name: str, content: bytes) -> bytes:
    """Return a file as it stands in a tar file: header, content, zeros up to a whole block. No time, no owner."""
    header = tarfile.TarInfo(name)
    header.size = len(content)
    return header.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE)


def ending(length: int) -> bytes:
    """Return what ends a tar file of that many bytes: two empty blocks, then zeros up to a whole record."""
    return bytes(2 * tarfile.BLOCKSIZE + -(length + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE)


class ShardFile:
    """A tar file that is being written: the first `length` bytes of what is there are kept, the rest is dropped."""

    def __init__(self, path: Path, *, images: int = 0, length: int = 0) -> None:
        self.path, self.images, self.length = path, images, length
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # unbuffered: what the disk refuses is known at once
        try:
            self._digest = _hash_beginning(self._file, path, length)
            os.ftruncate(self._file, length)
        except BaseException:
            os.close(self._file)
            raise

    def add(self, name: str, image: bytes, sidecar: bytes) -> Place:
        """Append an image and its sidecar, `name`.jpg and `name`.json. Raises OSError when the disk refuses."""
        before = self.length
        self._append(member(f"{name}.jpg", image) + member(f"{name}.json", sidecar))
        self.images += 1
        return Place(offset=before + tarfile.BLOCKSIZE, end=self.length)

    def _append(self, content: bytes) -> None:
        written = 0
        while written < len(content):
            written += os.pwrite(self._file, content[written:], self.length + written)
        self._digest.update(content)
        self.length += len(content)

    def sync(self) -> None:
        """See to it that all is on the disk."""
        os.fsync(self._file)

    def finish(self) -> None:
        """End the archive and write its SHA-256 beside it, in sha256sum's format."""
        self._append(ending(self.length))
        self.sync()
        line = f"{self._digest.hexdigest()}  {self.path.name}\n"
        checksum_file(self.path).write_text(line, encoding="utf-8")

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)


def checksum_file(shard: Path) -> Path:
    """Return the file that holds a shard's SHA-256."""
    return shard.with_name(f"{shard.name}.sha256")


def _hash_beginning(file: int, path: Path, length: int) -> hashlib._Hash:
    digest, done = hashlib.sha256(), 0
    while done < length:
        content = os.pread(file, min(_HASHED, length - done), done)
        if not content:
            raise UserError(f"--resume: {path} has lost images that were written; begin anew with --overwrite")
        digest.update(content)
        done += len(content)
    return digest
