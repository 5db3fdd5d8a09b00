"""Large files: the LFS batch protocol as the Hub speaks it, in one piece or in parts."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hf_mllm_aug.loopback_hub.messages import Request, Response
from hf_mllm_aug.loopback_hub.store import HubError, Repo, Store


class Lfs:
    """The routes for large files.

    Args:
        store: Where their bytes go.
        url: The server's own address.
        part_size: Files larger than this, in bytes, are uploaded in parts of this size.
    """

    def __init__(self, store: Store, url: str, part_size: int) -> None:
        self.store = store
        self.url = url
        self.part_size = part_size
        self._secret = secrets.token_hex(8)
        self.path = f"/_lfs/{self._secret}"  # an upload address is a capability, as the Hub's signed ones are

    def batch(self, request: Request, repo: Repo) -> Response:
        """Where to upload which objects; an object that is there already gets no address."""
        objects = []
        for wanted in request.json().get("objects", []):
            oid, size = str(wanted["oid"]), int(wanted["size"])
            answer: dict[str, Any] = {"oid": oid, "size": size}
            if not self.store.blob_path(oid).exists():
                href = f"{self.url}/_lfs/{self._secret}/{oid}"
                header = {}
                if size > self.part_size:
                    parts = range(1, -(-size // self.part_size) + 1)
                    header = {"chunk_size": str(self.part_size), **{f"{n:05d}": f"{href}/{n}" for n in parts}}
                verify = f"{self.url}/{repo.kind}/{quote(repo.id)}.git/info/lfs/verify"
                answer["actions"] = {"upload": {"href": href, "header": header}, "verify": {"href": verify}}
            objects.append(answer)
        return Response(data={"transfer": "basic", "objects": objects})

    def verify(self, request: Request, repo: Repo) -> Response:
        """Whether an object arrived whole."""
        body = request.json()
        self.store.lfs_blob(str(body.get("oid")), int(body.get("size", -1)))
        return Response(data={"message": "verified"})

    def put(self, request: Request, oid: str, part: str | None = None) -> Response:
        """Take an object, or one part of it, as it arrives."""
        path = self.store.blob_path(oid)
        digest = hashlib.sha256()
        upload = path.with_name(f"{oid}.{part or secrets.token_hex(8)}.part")
        with upload.open("wb") as file:
            for chunk in request.chunks:
                digest.update(chunk)
                file.write(chunk)
        if part is None:
            self._keep(upload, digest.hexdigest(), oid)
        return Response(body=b"", headers={"ETag": f'"{digest.hexdigest()}"'})

    def complete(self, request: Request, oid: str) -> Response:
        """Put an object together from its parts."""
        path = self.store.blob_path(oid)
        numbers = [int(part["partNumber"]) for part in request.json().get("parts", [])]
        digest = hashlib.sha256()
        whole = path.with_name(f"{oid}.{secrets.token_hex(8)}.part")
        pieces = [path.with_name(f"{oid}.{number}.part") for number in sorted(numbers)]
        if not all(piece.exists() for piece in pieces):
            raise HubError(400, "A part is missing")
        with whole.open("wb") as file:
            for piece in pieces:
                data = piece.read_bytes()
                digest.update(data)
                file.write(data)
        self._keep(whole, digest.hexdigest(), oid)
        for piece in pieces:
            piece.unlink()
        return Response(body=b"OK")

    @staticmethod
    def _keep(upload: Path, digest: str, oid: str) -> None:
        if digest != oid:
            upload.unlink()
            raise HubError(400, f"These bytes are not those of {oid}")
        upload.replace(upload.with_name(oid))
