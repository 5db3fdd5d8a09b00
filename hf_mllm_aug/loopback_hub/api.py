"""The Hub's routes: what each request means for the store, and the answer that the official client expects.

The forms follow the requests of huggingface_hub 2.4 and datasets 5.2 as observed on the wire.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, unquote

from hf_mllm_aug.loopback_hub import pages
from hf_mllm_aug.loopback_hub.lfs import Lfs
from hf_mllm_aug.loopback_hub.messages import Request, Response, front_matter
from hf_mllm_aug.loopback_hub.store import KINDS, Blob, Commit, HubError, Repo, Store, safe_path

_SDKS = ("docker", "gradio", "static", "streamlit")


class Api:
    """The routes over one store.

    Args:
        store: What is served.
        url: The server's own address, for the addresses in its answers.
        page_size: How many entries a page of a listing has.
        part_size: Files larger than this, in bytes, are uploaded in parts of this size.
    """

    def __init__(self, store: Store, url: str, page_size: int, part_size: int) -> None:
        self.store = store
        self.url = url
        self.page_size = page_size
        lfs = Lfs(store, url, part_size)
        kind, rev = r"(?P<kind>datasets|spaces)", r"(?P<rev>[^/]+)"
        repo, api = rf"{kind}/(?P<repo>[^/]+/[^/]+?)", rf"/api/{kind}/(?P<repo>[^/]+/[^/]+)"
        upload = rf"{lfs.path}/(?P<oid>[^/]+)"
        routes: list[tuple[str, str, Callable[..., Response]]] = [
            ("GET", r"/", self.home),
            ("GET", r"/api/whoami-v2", self.whoami),
            ("POST", r"/api/validate-yaml", self.validate_yaml),
            ("POST", r"/api/repos/create", self.create),
            ("DELETE", r"/api/repos/delete", self.delete),
            ("GET", r"/api/datasets", self.datasets),
            ("GET", rf"{api}(?:/revision/{rev})?", self.info),
            ("GET", rf"{api}/tree/{rev}(?:/(?P<path>.*))?", self.tree),
            ("POST", rf"{api}/paths-info/{rev}", self.paths_info),
            ("GET", rf"{api}/commits/{rev}", self.commits),
            ("GET", rf"{api}/refs", self.refs),
            ("POST", rf"{api}/branch/{rev}", self.branch),
            ("PUT", rf"{api}/settings", self.settings),
            ("POST", rf"{api}/preupload/{rev}", self.preupload),
            ("POST", rf"{api}/commit/{rev}", self.commit),
            ("GET", rf"{api}/xet-(?:read|write)-token/{rev}", self.no_xet),
            ("POST", rf"/{repo}\.git/info/lfs/objects/batch", lfs.batch),
            ("POST", rf"/{repo}\.git/info/lfs/verify", lfs.verify),
            ("PUT", rf"{upload}(?:/(?P<part>\d+))?", lfs.put),
            ("POST", upload, lfs.complete),
            ("GET", rf"/{repo}/resolve/{rev}/(?P<path>.+)", self.resolve),
            ("GET", rf"/{repo}(?:/(?:tree|commit|discussions)/(?P<rev>[^/]+))?", self.page),
        ]
        self.routes = [(method, re.compile(pattern), function) for method, pattern, function in routes]

    def handle(self, request: Request) -> Response:
        """Answer a request.

        Raises:
            HubError: For anything but success.
        """
        method = "GET" if request.method == "HEAD" else request.method
        for route_method, pattern, function in self.routes:
            match = pattern.fullmatch(request.path) if route_method == method else None
            if match:
                found = {name: unquote(value) for name, value in match.groupdict().items() if value is not None}
                if "repo" in found:
                    return function(request, self._repo(request, found.pop("kind"), found.pop("repo")), **found)
                return function(request, **found)
        raise HubError(404, "This loopback Hub has no such address")

    def _repo(self, request: Request, kind: str, repo_id: str) -> Repo:
        repo = self.store.get(repo_id, kind)
        if repo.private and not request.may_read_private:  # the Hub does not say that a private repository exists
            raise HubError(401, "Repository not found", "RepoNotFound")
        return repo

    def _visible(self, request: Request) -> list[Repo]:
        return [repo for repo in self.store.repos.values() if request.may_read_private or not repo.private]

    def home(self, request: Request) -> Response:
        """The page at ``/``."""
        return _html(pages.home(self._visible(request)))

    def page(self, request: Request, repo: Repo, rev: str = "main") -> Response:
        """The page of a repository, at a revision or a pull request's number."""
        commit = repo.resolve(f"refs/pr/{rev}" if rev.isdigit() and len(rev) < 7 else rev)
        blob = commit.tree.get("README.md")
        readme = self.store.blob_path(blob.sha256).read_text("utf-8", "replace") if blob else "(no card)"
        return _html(pages.repository(repo, commit, readme))

    def whoami(self, request: Request) -> Response:
        """Who the token belongs to."""
        return Response(data={"type": "user", "name": self.store.user, "orgs": [], "auth": {"type": "access_token"}})

    def validate_yaml(self, request: Request) -> Response:
        """Whether a card's metadata are right; asked before every commit of a card."""
        _, errors = front_matter(str(request.json().get("content", "")))
        found = [{"message": error} for error in errors]
        return Response(status=400 if found else 200, data={"errors": found, "warnings": []})

    def create(self, request: Request) -> Response:
        """Create a repository."""
        body = request.json()
        kind = f"{body.get('type')}s"
        if kind not in KINDS:
            raise HubError(400, "This loopback Hub keeps data sets and Spaces only")
        sdk = body.get("sdk")
        if kind == "spaces" and sdk not in _SDKS:
            raise HubError(400, f"A Space needs an sdk: {', '.join(_SDKS)}")
        private = body.get("visibility") == "private" or bool(body.get("private"))
        name, namespace = str(body.get("name")), body.get("organization") or self.store.user
        url = f"{self.url}/{kind}/{namespace}/{name}"
        try:
            repo = self.store.create(name, namespace, private, kind)
        except HubError as error:
            if error.status == 409:  # the client reads the address of the repository that is there
                raise HubError(409, str(error), data={"url": url}) from error
            raise
        return Response(data={"url": url, "id": repo.id, "name": repo.id})

    def settings(self, request: Request, repo: Repo) -> Response:
        """Change who may read."""
        body = request.json()
        if body.get("gated", False) not in (False, "auto", "manual"):
            raise HubError(400, "gated is false, auto or manual")
        repo.gated = body.get("gated", repo.gated)
        if "visibility" in body:
            repo.private = body["visibility"] == "private"
        return Response(data={"private": repo.private, "gated": repo.gated})

    def delete(self, request: Request) -> Response:
        """Delete a repository."""
        body = request.json()
        repo_id = f"{body.get('organization') or self.store.user}/{body.get('name')}"
        self.store.delete(repo_id, f"{body.get('type', 'dataset')}s")
        return Response(body=b"OK")

    def datasets(self, request: Request) -> Response:
        """All repositories, or an author's."""
        author = request.first("author")
        repos = [repo for repo in self._visible(request) if repo.kind == "datasets"]
        return Response(data=[self._info(r, "main") for r in repos if not author or r.id.startswith(f"{author}/")])

    def info(self, request: Request, repo: Repo, rev: str = "main") -> Response:
        """What is known of a repository at a revision."""
        return Response(data=self._info(repo, rev))

    def _info(self, repo: Repo, revision: str) -> dict[str, Any]:
        commit = repo.resolve(revision)
        siblings = [
            {"rfilename": path, "size": blob.size, "blobId": blob.oid}
            | ({"lfs": {"sha256": blob.sha256, "size": blob.size, "pointerSize": 134}} if blob.lfs else {})
            for path, blob in sorted(commit.tree.items())
        ]
        head = {"id": repo.id, "_id": repo.id, "author": repo.id.split("/")[0], "sha": commit.oid}
        dates = {"createdAt": repo.created, "lastModified": commit.date}
        flags: dict[str, Any] = {
            "private": repo.private,
            "gated": repo.gated,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
        }
        return {**head, **dates, **flags, "siblings": siblings}

    def tree(self, request: Request, repo: Repo, rev: str, path: str = "") -> Response:
        """The files at a revision, in pages."""
        commit, path = repo.resolve(rev), path.strip("/")
        prefix = f"{path}/" if path else ""
        if path and not any(p.startswith(prefix) or p == path for p in commit.tree):
            raise HubError(404, f"{path} does not exist on {rev}", "EntryNotFound")
        expand = request.first("expand") in ("true", "True", "1")
        recursive = request.first("recursive") in ("true", "True", "1")
        inside = [p for p in commit.tree if p.startswith(prefix)]
        if not recursive:
            inside = [p for p in inside if "/" not in p[len(prefix) :]]
        folders = {d for p in commit.tree if p.startswith(prefix) for d in _parents(p) if d.startswith(prefix)}
        if not recursive:
            folders = {d for d in folders if "/" not in d[len(prefix) :]}
        entries = [self._entry(repo, commit, p, expand) for p in sorted({*inside, *folders})]
        start = int(request.first("cursor") or 0)
        page = Response(data=entries[start : start + self.page_size])
        if start + self.page_size < len(entries):
            query = f"recursive={recursive}&expand={expand}&cursor={start + self.page_size}"
            page.headers["Link"] = f'<{self.url}{request.path}?{query}>; rel="next"'
        return page

    def paths_info(self, request: Request, repo: Repo, rev: str) -> Response:
        """What is known of some paths; those that are not there are left out."""
        commit = repo.resolve(rev)
        form = parse_qs(request.body().decode())
        known = {*commit.tree, *(folder for path in commit.tree for folder in _parents(path))}
        paths = [path.strip("/") for path in form.get("paths", []) if path.strip("/") in known]
        return Response(data=[self._entry(repo, commit, p, form.get("expand") == ["true"]) for p in paths])

    def _entry(self, repo: Repo, commit: Commit, path: str, expand: bool) -> dict[str, Any]:
        blob = commit.tree.get(path)
        if blob is None:
            oid = hashlib.sha1(f"{commit.oid}{path}".encode(), usedforsecurity=False).hexdigest()
            entry: dict[str, Any] = {"type": "directory", "oid": oid, "size": 0, "path": path}
        else:
            entry = {"type": "file", "oid": blob.oid, "size": blob.size, "path": path}
            if blob.lfs:
                entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 134}
        if expand:
            past = [c for c in repo.history(commit.oid) if c.tree.get(path) == blob]
            entry["lastCommit"] = {"id": past[-1].oid, "title": past[-1].title, "date": past[-1].date}
        return entry

    def commits(self, request: Request, repo: Repo, rev: str) -> Response:
        """The history of a revision, newest first."""

        def form(commit: Commit) -> dict[str, Any]:
            author = [{"user": self.store.user}]
            return {
                "id": commit.oid,
                "title": commit.title,
                "message": commit.message,
                "date": commit.date,
                "authors": author,
            }

        return Response(data=[form(commit) for commit in repo.history(rev)])

    def refs(self, request: Request, repo: Repo) -> Response:
        """Branches and pull requests."""

        def form(start: str) -> list[dict[str, str]]:
            refs = [(ref, oid) for ref, oid in repo.refs.items() if ref.startswith(start)]
            return [{"name": ref.removeprefix("refs/heads/"), "ref": ref, "targetCommit": oid} for ref, oid in refs]

        data: dict[str, Any] = {"branches": form("refs/heads/"), "converts": [], "tags": []}
        return Response(data={**data, "pullRequests": form("refs/pr/")})

    def branch(self, request: Request, repo: Repo, rev: str) -> Response:
        """Create a branch."""
        self.store.branch(repo, rev, request.json().get("startingPoint"))
        return Response(body=b"OK")

    def preupload(self, request: Request, repo: Repo, rev: str) -> Response:
        """Which files go by LFS, and which are there already."""
        tree = repo.resolve(rev).tree
        files = []
        for file in request.json().get("files", []):
            path = safe_path(str(file["path"]))
            lfs = path.endswith((".parquet", ".arrow", ".png", ".jpg", ".bin")) or int(file["size"]) > 10 * 1024**2
            old = tree.get(path)
            oid = None if old is None else old.sha256 if old.lfs else old.oid
            mode = "lfs" if lfs else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return Response(data={"files": files})

    def no_xet(self, request: Request, repo: Repo, rev: str) -> Response:
        """Refuse Xet in words; the client has no fall-back of its own."""
        raise HubError(404, "This loopback Hub has no Xet storage: set HF_HUB_DISABLE_XET=1 before Python starts")

    def commit(self, request: Request, repo: Repo, rev: str) -> Response:
        """One commit, from a header and operations, one JSON object a line."""
        header: dict[str, Any] = {}
        add: dict[str, Blob] = {}
        delete: list[tuple[str, bool]] = []
        for line in request.body().splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                header = value
                continue
            path = safe_path(str(value["path"]).rstrip("/"))
            if key == "file":
                try:
                    content = base64.b64decode(value["content"], validate=True)
                except binascii.Error:
                    raise HubError(400, f"{path} is not base64") from None
                add[path] = self.store.add_bytes(content)
                errors = front_matter(content.decode("utf-8", "replace"))[1] if path == "README.md" else []
                if errors:
                    raise HubError(400, f"Invalid metadata in README.md: {'; '.join(errors)}")
            elif key == "lfsFile":
                add[path] = self.store.lfs_blob(str(value["oid"]), value.get("size"))
            elif key in ("deletedFile", "deletedFolder"):
                delete.append((path, key == "deletedFolder"))
            else:
                raise HubError(400, f"Unknown operation: {key}")
        if not header.get("summary"):
            raise HubError(400, "A commit needs a summary")
        commit, number = self.store.commit(
            repo,
            rev,
            title=str(header["summary"]),
            message=str(header.get("description", "")),
            add=add,
            delete=delete,
            parent=header.get("parentCommit"),
            create_pr=request.first("create_pr") == "1",
        )
        page = f"{self.url}/{repo.kind}/{repo.id}"
        data = {"success": True, "commitOid": commit.oid, "commitUrl": f"{page}/commit/{commit.oid}"}
        if number is not None:
            data["pullRequestUrl"] = f"{page}/discussions/{number}"
        return Response(data=data)

    def resolve(self, request: Request, repo: Repo, rev: str, path: str) -> Response:
        """A file's bytes, or a span of them."""
        commit = repo.resolve(rev)
        blob = commit.tree.get(path)
        if blob is None:
            raise HubError(404, f"{path} does not exist on {rev}", "EntryNotFound")
        etag = f'"{blob.sha256 if blob.lfs else blob.oid}"'
        headers = {"X-Repo-Commit": commit.oid, "ETag": etag, "Accept-Ranges": "bytes"}
        headers["Content-Type"] = "application/octet-stream" if blob.lfs else "text/plain; charset=utf-8"
        status, start, stop = 200, 0, blob.size
        span = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
        if span and any(span.groups()):
            start = int(span[1]) if span[1] else max(0, blob.size - int(span[2]))
            stop = min(blob.size, int(span[2]) + 1) if span[1] and span[2] else blob.size
            if start >= stop:
                raise HubError(416, f"{path} has {blob.size} bytes")
            status, headers["Content-Range"] = 206, f"bytes {start}-{stop - 1}/{blob.size}"
        return Response(status=status, file=self.store.blob_path(blob.sha256), span=(start, stop), headers=headers)


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]


def _html(body: bytes) -> Response:
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return Response(body=body, headers={"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": policy})
