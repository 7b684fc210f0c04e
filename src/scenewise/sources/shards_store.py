"""Where packed shards lie: in a folder, or behind an address that answers HTTP range requests."""

from __future__ import annotations

import hashlib
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import filelock

from scenewise.errors import ImageError, MissingError, UserError
from scenewise.sources import shards_http
from scenewise.sources.base import Progress
from scenewise.sources.cache import cache_folder
from scenewise.sources.shards_format import JOURNAL, MANIFEST, Contents, Manifest, Shard

_PART = 2**23  # bytes asked for at once of a file that is kept


class Store(ABC):
    """The files of a packed folder. Pickles small."""

    @abstractmethod
    def manifest(self) -> str:
        """Return the text of the manifest; UserError where there is none."""

    @abstractmethod
    def check(self, manifest: Manifest) -> None:
        """Raise UserError for what can be told at once to be missing, or of another length."""

    @abstractmethod
    def file(self, name: str, contents: Contents, *, progress: Progress | None = None) -> Path:
        """Return a file beside the shards as one of this machine; UserError where it is not what it was."""

    @abstractmethod
    def read(self, shard: Shard, offset: int, length: int) -> bytes:
        """Return `length` bytes of a shard; UserError where it is missing or has another length."""


@final
@dataclass(frozen=True, slots=True)
class FolderStore(Store):
    """A folder on this machine."""

    folder: Path

    def manifest(self) -> str:
        """Return the text of the manifest."""
        file = self.folder / MANIFEST
        try:
            return file.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            raise self._missing() from None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"data: cannot read {file}: {error}") from None

    def _missing(self) -> UserError:
        if (self.folder / JOURNAL).exists():
            return UserError(f"data: {self.folder} is not packed to its end; go on with `scenewise pack ... --resume`")
        if self.folder.is_dir():
            return UserError(
                f"data: {self.folder} has no {MANIFEST}; name a folder that `scenewise pack DATA --out` has written"
            )
        what = f"{self.folder} is a file; name the folder that holds it" if self.folder.exists() else ""
        return MissingError(f"data: {what or f'no such folder: {self.folder}'}")

    def check(self, manifest: Manifest) -> None:
        """Raise UserError with the first shard that is missing, or has another length."""
        for shard in manifest.shards:
            try:
                found = (self.folder / shard.name).stat().st_size
            except OSError:
                raise self._no_shard(shard) from None
            if found != shard.bytes:
                raise self._other_length(shard, found)

    def file(self, name: str, contents: Contents, *, progress: Progress | None = None) -> Path:
        """Return the file itself."""
        del progress
        file = self.folder / name
        found = file.stat().st_size if file.is_file() else None
        if found != contents.bytes:
            how = "is missing" if found is None else f"has {found} bytes instead of {contents.bytes}"
            raise UserError(f"data: {file} {how}; copy the folder anew, or pack anew with --overwrite")
        return file

    def read(self, shard: Shard, offset: int, length: int) -> bytes:
        """Return `length` bytes of a shard."""
        try:
            file = os.open(f"{self.folder}/{shard.name}", os.O_RDONLY)  # a Path and its open() take twice as long
            try:
                found = os.fstat(file).st_size
                if found != shard.bytes:
                    raise self._other_length(shard, found)
                return os.pread(file, length, offset)
            finally:
                os.close(file)
        except FileNotFoundError:
            raise self._no_shard(shard) from None
        except OSError as error:
            raise ImageError(f"cannot be read: {(error.strerror or str(error)).lower()}") from None

    def _no_shard(self, shard: Shard) -> UserError:
        return UserError(
            f"data: the shard {self.folder / shard.name} is missing; copy it again ({shard.bytes} bytes), or pack anew"
        )

    def _other_length(self, shard: Shard, found: int) -> UserError:
        return UserError(
            f"data: the shard {self.folder / shard.name} has {found} bytes instead of {shard.bytes}; copy it again, or "
            "pack anew"
        )


@final
@dataclass(frozen=True, slots=True)
class AddressStore(Store):
    """An http or https address: a folder's, or one in which `{}` stands for the name of a file.

    The manifest is asked for at each opening; the index and its neighbours are kept in the cache folder under their
    SHA-256, so they are fetched once and never stale.
    """

    address: str

    def url(self, name: str) -> str:
        """Return the address of a file."""
        quoted = shards_http.quote(name)
        return self.address.replace("{}", quoted) if "{}" in self.address else f"{self.address.rstrip('/')}/{quoted}"

    def manifest(self) -> str:
        """Return the text of the manifest."""
        try:
            return shards_http.fetch(self.url(MANIFEST)).decode("utf-8")
        except UnicodeDecodeError:
            raise UserError(f"data: {self.url(MANIFEST)} is no manifest of packed shards") from None

    def check(self, manifest: Manifest) -> None:
        """Ask nothing: each answer to `read` comes with the length of its shard."""

    def file(self, name: str, contents: Contents, *, progress: Progress | None = None) -> Path:
        """Return the copy of the file in the cache folder, fetched unless it is there."""
        folder = cache_folder() / "shards"
        file = folder / f"{contents.sha256}{Path(name).suffix}"
        try:
            folder.mkdir(exist_ok=True)
            with filelock.FileLock(folder / f"{contents.sha256}.lock"):  # the processes of one run fetch once
                if not file.is_file() or file.stat().st_size != contents.bytes:
                    self._fetch(name, contents, file, progress)
        except OSError as error:
            raise UserError(f"data: cannot keep {name} in {folder}: {error}") from None
        return file

    def _fetch(self, name: str, contents: Contents, file: Path, progress: Progress | None) -> None:
        temporary = file.with_suffix(f".{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as target:
                found = _copy(self.url(name), target.write, contents.bytes, name=name, progress=progress)
            if found != contents.sha256:
                raise UserError(f"data: {self.url(name)} is not the file that {MANIFEST} names (SHA-256 {found})")
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)

    def read(self, shard: Shard, offset: int, length: int) -> bytes:
        """Return `length` bytes of a shard."""
        return shards_http.fetch_range(self.url(shard.name), offset, length, total=shard.bytes)


def _copy(url: str, write: Callable[[bytes], int], length: int, *, name: str, progress: Progress | None) -> str:
    """Write a file behind an address in parts, each of which is tried again by itself; return its SHA-256."""
    digest = hashlib.sha256()
    for start in range(0, length, _PART):
        part = shards_http.fetch_range(url, start, min(_PART, length - start), total=length)
        digest.update(part)
        write(part)
        if progress is not None:
            progress(f"fetching {name}", start + len(part), length)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class RangeReader:
    """Returns the bytes of a packed image, which must be those that were packed."""

    store: Store
    shard: Shard
    offset: int
    length: int
    checksum: int

    def __call__(self) -> bytes:
        """Read one range of the shard.

        ImageError when its bytes are others than were packed; UserError when the shard is missing, has another length,
        or cannot be had: then the images are as they were, and another one in the place of this would hide it.
        """
        content = self.store.read(self.shard, self.offset, self.length)
        if len(content) != self.length or zlib.crc32(content) != self.checksum:
            raise ImageError(f"damaged in {self.shard.name}: its checksum differs from that of the packed image")
        return content
