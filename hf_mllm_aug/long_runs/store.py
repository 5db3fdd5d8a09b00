"""Where a run is kept: a folder on this machine, or one behind an fsspec URL; a file there is whole or absent.

On this machine a file is written beside its place and then renamed onto it. Object stores show an object only when all
of it has arrived, so there it is written on this machine and sent as a whole.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol

from hf_mllm_aug.errors import AugError

HOST = re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())

_MARK = ".tmp~"
_LEFTOVER = re.compile(rf".*{re.escape(_MARK)}(?P<host>[^~]*)~(?P<pid>\d+)~\w+")
_DAY = 24 * 3600


class StoreError(AugError):
    """The folder of a run cannot be read or written; `LongRun` adds what is finished, and what to do."""


class Store(Protocol):
    """A folder; names in it are relative and have at most one ``/``."""

    def read(self, name: str) -> bytes | None:
        """A file's content; None if there is none."""

    def open(self, name: str) -> IO[bytes]:
        """A file, for reading anywhere in it; a failure while it is read is a `StoreError`."""

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""

    def names(self, folder: str) -> list[str]:
        """The names of the files in one of its folders, sorted; none if there is no such folder."""

    def writing(self, name: str) -> contextlib.AbstractContextManager[str]:
        """The path of an empty place on this machine, whose file takes its name in the store when the block ends."""

    def write(self, name: str, content: bytes, *, new: bool = False) -> bool:
        """Write a file; with ``new`` only if there is none. Whether it was written."""

    def rename(self, name: str, to: str) -> None:
        """Rename a file, in place of another."""

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""

    def sweep(self, folder: str) -> None:
        """Delete what writers that are dead have left unfinished in one of its folders."""


def open_store(location: str | os.PathLike[str]) -> Store:
    """The store at a path or an fsspec URL."""
    where = os.fspath(location)
    if where.startswith("file://"):
        where = where[len("file://") :]
    return RemoteStore(where) if "://" in where else LocalStore(where)


class LocalStore:
    """A folder on this machine.

    Args:
        folder: Its path; it is made when the first file is written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._root = Path(folder).expanduser()
        self._shown = os.fspath(folder)

    def __str__(self) -> str:
        return self._shown

    def read(self, name: str) -> bytes | None:
        """See `Store`."""
        with _told(f"read {name} of {self}"):
            try:
                return (self._root / name).read_bytes()
            except FileNotFoundError:
                return None

    def open(self, name: str) -> IO[bytes]:
        """See `Store`."""
        doing = f"read {name} of {self}"
        with _told(doing):
            return io.BufferedReader(_Told(open(self._root / name, "rb", buffering=0), doing))

    def exists(self, name: str) -> bool:
        """See `Store`."""
        with _told(f"read {name} of {self}"):
            return (self._root / name).is_file()

    def names(self, folder: str) -> list[str]:
        """See `Store`."""
        with _told(f"read {self}"):
            try:
                return sorted(os.listdir(self._root / folder))
            except FileNotFoundError:
                return []

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[str]:
        """See `Store`."""
        path = self._root / name
        beside = path.with_name(f"{path.name}{_MARK}{HOST}~{os.getpid()}~{secrets.token_hex(4)}")
        with _told(f"write {name} to {self}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                yield str(beside)
                _flush(beside)
                os.replace(beside, path)
                if os.name == "posix":
                    _flush(path.parent)
            except BaseException:
                beside.unlink(missing_ok=True)
                raise

    def write(self, name: str, content: bytes, *, new: bool = False) -> bool:
        """See `Store`."""
        if new:  # seen unfinished it is taken for void, which costs double work at most: only claims are new
            with _told(f"write {name} to {self}"):
                path = self._root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    with open(path, "xb") as file:
                        file.write(content)
                except FileExistsError:
                    return False
            return True
        with self.writing(name) as place:
            Path(place).write_bytes(content)
        return True

    def rename(self, name: str, to: str) -> None:
        """See `Store`."""
        with _told(f"rename {name} of {self}"), contextlib.suppress(FileNotFoundError):
            os.replace(self._root / name, self._root / to)

    def delete(self, name: str) -> None:
        """See `Store`."""
        with _told(f"delete {name} of {self}"):
            (self._root / name).unlink(missing_ok=True)

    def sweep(self, folder: str) -> None:
        """See `Store`."""
        for name in self.names(folder):
            found = _LEFTOVER.fullmatch(name)
            if found is None:
                continue
            path = self._root / folder / name
            with contextlib.suppress(FileNotFoundError), _told(f"delete {folder}/{name} of {self}"):
                old = time.time() - path.stat().st_mtime > _DAY
                if old or (found["host"] == HOST and not is_alive(int(found["pid"]))):
                    path.unlink(missing_ok=True)


class RemoteStore:
    """A folder behind an fsspec URL.

    Args:
        url: Its address.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def __str__(self) -> str:
        return re.sub(r"//[^/@]*@", "//", self._url)  # an address may hold a password

    @property
    def _fs(self) -> Any:
        from fsspec.core import url_to_fs

        return url_to_fs(self._url)[0]  # fsspec keeps its file systems

    def _path(self, name: str) -> str:
        from fsspec.core import url_to_fs

        return f"{str(url_to_fs(self._url)[1]).rstrip('/')}/{name}"

    def read(self, name: str) -> bytes | None:
        """See `Store`."""
        with _told(f"read {name} of {self}"):
            try:
                return bytes(self._fs.cat_file(self._path(name)))
            except FileNotFoundError:
                return None

    def open(self, name: str) -> IO[bytes]:
        """See `Store`."""
        doing = f"read {name} of {self}"
        with _told(doing):
            return io.BufferedReader(_Told(self._fs.open(self._path(name), "rb"), doing))

    def exists(self, name: str) -> bool:
        """See `Store`."""
        with _told(f"read {self}"):
            self._fs.invalidate_cache(self._path(name).rpartition("/")[0])
            return bool(self._fs.isfile(self._path(name)))

    def names(self, folder: str) -> list[str]:
        """See `Store`."""
        with _told(f"read {self}"):
            try:
                self._fs.invalidate_cache(self._path(folder))
                return sorted(str(path).rpartition("/")[2] for path in self._fs.ls(self._path(folder), detail=False))
            except FileNotFoundError:
                return []

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[str]:
        """See `Store`."""
        folder = tempfile.mkdtemp(prefix="hf-mllm-aug-")
        try:
            with _told(f"write {name} to {self}"):
                path = os.path.join(folder, "file")
                yield path
                self._fs.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)
                self._fs.put_file(path, self._path(name))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def write(self, name: str, content: bytes, *, new: bool = False) -> bool:
        """See `Store`."""
        if new and self.exists(name):
            return False
        with _told(f"write {name} to {self}"):
            self._fs.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(self._path(name), content)
        return True

    def rename(self, name: str, to: str) -> None:
        """See `Store`."""
        with _told(f"rename {name} of {self}"), contextlib.suppress(FileNotFoundError):
            self._fs.mv(self._path(name), self._path(to))

    def delete(self, name: str) -> None:
        """See `Store`."""
        with _told(f"delete {name} of {self}"), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def sweep(self, folder: str) -> None:
        """See `Store`; here nothing is left."""


class _Told(io.RawIOBase):
    """A file whose failures are told in one line: nobody takes them for damage in what it holds.

    Args:
        file: The file.
        doing: What is being done, for the line.
    """

    def __init__(self, file: Any, doing: str) -> None:
        self._file, self._doing = file, doing

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _told(self._doing):
            found = self._file.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with _told(self._doing):
            return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        with _told(self._doing):
            return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def is_alive(pid: int) -> bool:
    """Whether a process of this machine runs, as far as can be told."""
    if os.name != "posix":  # elsewhere the signal 0 is one
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextlib.contextmanager
def _told(doing: str) -> Iterator[None]:
    """Turn the failures of file systems into one line."""
    try:
        yield
    except AugError:
        raise
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise StoreError(f"cannot {doing}: {error.strerror or _first_line(error)}") from error
    except Exception as error:  # every file system of fsspec has errors of its own
        raise StoreError(f"cannot {doing}: {type(error).__name__}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _flush(path: Path) -> None:
    """Have the disk keep a file or a folder's entries, so that a machine's crash cannot take them back."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
