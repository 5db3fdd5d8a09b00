"""Claims: who works on which shard. They save double work and nothing else; results are right without them."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time

from hf_mllm_aug.long_runs.store import HOST, Store, StoreError, is_alive

FOLDER = "claims"

_BEAT = 10.0  # seconds between two signs of life
_STALE = 60.0  # seconds without one after which a claim is void


class Claims:
    """The claims of this process in a store, kept alive by a thread until `close`.

    Args:
        store: The run's folder.
        beat: Seconds between two signs of life.
        stale: Seconds without one after which another's claim is void.
    """

    def __init__(self, store: Store, *, beat: float = _BEAT, stale: float = _STALE) -> None:
        self._store, self._beat, self._stale = store, beat, stale
        self._held: set[str] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._refresh, name="claims", daemon=True)
        self._thread.start()

    def take(self, stage: str, shard: int) -> bool:
        """Claim a shard of a stage.

        Returns:
            Whether it is ours; False if another process that is alive has it.
        """
        name = _name(stage, shard)
        with self._lock:
            if name in self._held:
                return True
            content = self._store.read(name)
            if content is not None and self._is_live(content):
                return False
            if not self._store.write(name, _sign(), new=content is None):
                return False  # another was quicker
            self._held.add(name)
            return True

    def release(self, stage: str, shard: int) -> None:
        """Give a claim up."""
        name = _name(stage, shard)
        with self._lock:
            if name in self._held:
                self._held.discard(name)
                self._store.delete(name)

    def sweep(self) -> None:
        """Delete what dead processes have left."""
        self._store.sweep(FOLDER)
        for name in self._store.names(FOLDER):
            content = self._store.read(f"{FOLDER}/{name}")
            # One that is taken at this moment may go too; that costs double work at most.
            if content is not None and f"{FOLDER}/{name}" not in self._held and not self._is_live(content):
                self._store.delete(f"{FOLDER}/{name}")

    def close(self) -> None:
        """Give all claims up."""
        self._closed.set()
        self._thread.join()
        with self._lock:
            for name in sorted(self._held):
                with contextlib.suppress(StoreError):  # the store may be why the run ends; claims end by themselves
                    self._store.delete(name)
            self._held.clear()

    def _refresh(self) -> None:
        while not self._closed.wait(self._beat):
            with self._lock:
                for name in self._held:
                    with contextlib.suppress(StoreError):  # a lost claim costs double work at most
                        self._store.write(name, _sign())

    def _is_live(self, content: bytes) -> bool:
        try:
            claim = json.loads(content)
            host, pid, then = str(claim["host"]), int(claim["pid"]), float(claim["time"])
        except (ValueError, KeyError, TypeError):
            return False
        if host == HOST and (pid == os.getpid() or not is_alive(pid)):
            return False
        return time.time() - then < self._stale


def _name(stage: str, shard: int) -> str:
    return f"{FOLDER}/{stage}-{shard:05d}.json"


def _sign() -> bytes:
    return json.dumps({"host": HOST, "pid": os.getpid(), "time": time.time()}).encode()
