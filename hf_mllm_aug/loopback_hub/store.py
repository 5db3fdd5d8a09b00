"""What the loopback Hub keeps: repositories, their commits and refs in memory, the files' bytes in a folder.

A commit holds its whole tree and never changes, so a reader of any revision sees a complete state, and a commit takes
effect by one assignment to a ref under a lock.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

MAIN = "refs/heads/main"
KINDS = ("datasets", "spaces")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REPO_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")


class HubError(Exception):
    """A request that the Hub answers with an error status.

    Args:
        status: The HTTP status.
        message: What the response says.
        code: The ``X-Error-Code`` by which clients tell one 404 from another.
        data: What the response's body holds beside the message.
    """

    def __init__(self, status: int, message: str, code: str | None = None, data: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.data = data or {}


@dataclass(frozen=True)
class Blob:
    """One file's content: `sha256` names its bytes in the store, `oid` is what git calls it."""

    sha256: str
    size: int
    oid: str
    lfs: bool


@dataclass(frozen=True)
class Commit:
    """One state of a repository: `tree` maps every path to its blob."""

    oid: str
    parent: str | None
    title: str
    message: str
    date: str
    tree: dict[str, Blob]


@dataclass
class Repo:
    """A repository of a data set or a Space: commits by their oid, refs such as ``refs/heads/main`` to an oid."""

    id: str
    private: bool
    created: str
    kind: str = "datasets"
    gated: str | bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    pull_requests: int = 0

    def resolve(self, revision: str) -> Commit:
        """The commit that a branch, ref or (short) oid names.

        Raises:
            HubError: 404 `RevisionNotFound`.
        """
        for ref in (f"refs/heads/{revision}", revision):
            if ref in self.refs:
                return self.commits[self.refs[ref]]
        if re.fullmatch(r"[0-9a-f]{7,40}", revision):
            found = [commit for oid, commit in self.commits.items() if oid.startswith(revision)]
            if len(found) == 1:
                return found[0]
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def history(self, revision: str) -> list[Commit]:
        """The commits that lead to `revision`, newest first."""
        commits = [self.resolve(revision)]
        while (parent := commits[-1].parent) is not None:
            commits.append(self.commits[parent])
        return commits


def now() -> str:
    """The present, as the Hub writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def git_oid(data: bytes) -> str:
    """The name that git gives to a file of these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def safe_path(path: str) -> str:
    """A path that stays inside its repository.

    Raises:
        HubError: 400 for an absolute path, ``..``, an empty segment, a backslash or anything below ``.git``.
    """
    parts = path.split("/")
    if not path or "\\" in path or "\0" in path or any(part in ("", ".", "..", ".git") for part in parts):
        raise HubError(400, f"Invalid path: {path!r}")
    return path


def _place(repo_id: str, kind: str) -> str:
    return repo_id if kind == KINDS[0] else f"{kind}/{repo_id}"


class Store:
    """All repositories, and the folder with their files' bytes.

    Args:
        folder: Where blobs are kept, one file each, named by sha256.
        user: The namespace of repositories that are created without one.
    """

    def __init__(self, folder: Path, user: str) -> None:
        self.folder = folder
        self.user = user
        self.repos: dict[str, Repo] = {}
        self.lock = threading.RLock()
        folder.mkdir(parents=True, exist_ok=True)

    def blob_path(self, sha256: str) -> Path:
        """The file of a blob. A name that is no sha256 never becomes a path."""
        if not _SHA256.fullmatch(sha256):
            raise HubError(400, "An LFS oid is 64 hexadecimal digits")
        return self.folder / sha256

    def add_bytes(self, data: bytes) -> Blob:
        """Store a regular file."""
        digest = hashlib.sha256(data).hexdigest()
        path = self.blob_path(digest)
        if not path.exists():
            part = path.with_name(f"{digest}.{threading.get_ident()}.part")
            part.write_bytes(data)
            part.replace(path)
        return Blob(digest, len(data), git_oid(data), lfs=False)

    def lfs_blob(self, sha256: str, size: int | None = None) -> Blob:
        """A blob that was uploaded by LFS before.

        Raises:
            HubError: 422 if it was not uploaded, or has another size.
        """
        path = self.blob_path(sha256)
        if not path.exists():
            raise HubError(422, f"LFS object {sha256} was never uploaded")
        real = path.stat().st_size
        if size is not None and size != real:
            raise HubError(422, f"LFS object {sha256} has {real} bytes, not {size}")
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {real}\n"
        return Blob(sha256, real, git_oid(pointer.encode()), lfs=True)

    def create(self, name: str, organization: str | None, private: bool, kind: str = KINDS[0]) -> Repo:
        """Create a repository, with the first commit that the Hub makes.

        Raises:
            HubError: 409 if it exists, 400 for a bad name.
        """
        namespace = organization or self.user
        if not (_REPO_NAME.fullmatch(name) and _REPO_NAME.fullmatch(namespace)) or "--" in name or ".." in name:
            raise HubError(400, f"Invalid repository name: {namespace}/{name}")
        repo_id = f"{namespace}/{name}"
        with self.lock:
            place = _place(repo_id, kind)
            if place in self.repos:
                raise HubError(409, f"You already created this {kind.removesuffix('s')} repo")
            repo = self.repos[place] = Repo(repo_id, private, created=now(), kind=kind)
            attributes = self.add_bytes(b"*.parquet filter=lfs diff=lfs merge=lfs -text\n")
            self._append(repo, MAIN, None, {".gitattributes": attributes}, "initial commit", "")
            return repo

    def delete(self, repo_id: str, kind: str = KINDS[0]) -> None:
        """Forget a repository; its blobs stay until the folder goes."""
        with self.lock:
            self.get(repo_id, kind)
            del self.repos[_place(repo_id, kind)]

    def get(self, repo_id: str, kind: str = KINDS[0]) -> Repo:
        """A repository.

        Raises:
            HubError: 404 `RepoNotFound`.
        """
        with self.lock:
            place = _place(repo_id, kind)
            if place not in self.repos:
                raise HubError(404, "Repository not found", "RepoNotFound")
            return self.repos[place]

    def commit(
        self,
        repo: Repo,
        revision: str,
        *,
        title: str,
        message: str,
        add: dict[str, Blob],
        delete: Iterable[tuple[str, bool]] = (),
        parent: str | None = None,
        create_pr: bool = False,
    ) -> tuple[Commit, int | None]:
        """Add one commit, whole or not at all.

        Args:
            repo: The repository.
            revision: The branch that moves.
            title: The commit's first line.
            message: The rest of it.
            add: Paths with their new content.
            delete: Paths to remove, each with whether it is a folder.
            parent: The oid that the branch must have.
            create_pr: Whether the commit goes to a new pull request instead of the branch.

        Returns:
            The commit, and the pull request's number if there is one.

        Raises:
            HubError: 412 if the branch has moved past `parent`, 404 for a path that is not there to be deleted.
        """
        with self.lock:
            base = repo.resolve(parent if create_pr and parent else revision)
            if parent and not create_pr and not base.oid.startswith(parent):
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            tree = dict(base.tree)
            for path, is_folder in delete:
                gone = [p for p in tree if p.startswith(path.rstrip("/") + "/")] if is_folder else [path]
                if not gone or any(p not in tree for p in gone):
                    raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                for p in gone:
                    del tree[p]
            tree.update(add)
            if create_pr:
                repo.pull_requests += 1
                ref = f"refs/pr/{repo.pull_requests}"
                return self._append(repo, ref, base.oid, tree, title, message), repo.pull_requests
            ref = revision if revision in repo.refs else f"refs/heads/{revision}"
            if ref not in repo.refs:
                raise HubError(400, f"Not a branch: {revision}")
            return self._append(repo, ref, base.oid, tree, title, message), None

    def branch(self, repo: Repo, name: str, start: str | None) -> None:
        """Create a branch.

        Raises:
            HubError: 409 if it exists.
        """
        with self.lock:
            ref = f"refs/heads/{name}"
            if ref in repo.refs:
                raise HubError(409, f"Reference already exists: {ref}")
            repo.refs[ref] = repo.resolve(start or "main").oid

    @staticmethod
    def _append(repo: Repo, ref: str, parent: str | None, tree: dict[str, Blob], title: str, message: str) -> Commit:
        date = now()
        listing = "\n".join(f"{path} {blob.oid}" for path, blob in sorted(tree.items()))
        text = f"{parent}\n{title}\n{message}\n{date}\n{len(repo.commits)}\n{listing}"
        oid = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        commit = repo.commits[oid] = Commit(oid, parent, title, message, date, tree)
        repo.refs[ref] = oid
        return commit
