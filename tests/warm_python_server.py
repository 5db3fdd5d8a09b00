"""Imports what is slow to import, then forks a process for each that asks: LISTENER (a descriptor), see `warm_python`.

It ends when its standard input closes, and its processes with it.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import tempfile
import threading
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What reads no variable of Hugging Face's: each process has its own of those.
SLOW = (
    "torch",
    "torch._dynamo",
    "torch._meta_registrations",
    "torch.distributed.checkpoint",
    "torch.distributed.elastic.agent.server.api",
    "torch.distributed.tensor",
    "torch.fx.experimental.symbolic_shapes",
    "torch.utils.data",
    "pandas",
    "pydantic",
    "pyarrow.parquet",
    "pyarrow.dataset",
    "numpy",
    "sympy",
    "PIL.Image",
    "aiohttp",
    "dill",
    "fsspec",
    "httpx2",
    "h11",
    "anyio",
    "jinja2",
    "multiprocess.pool",
    "regex",
    "rich",
    "safetensors.torch",
    "sentencex",
    "tokenizers",
    "tqdm.auto",
    "typer",
    "unittest.mock",
    "yaml",
)
# Variables that are read before a process forked from this one could have values of its own.
EARLY = ("PYTHON", "OMP_", "MKL_", "OPENBLAS_", "LD_", "MALLOC_")
LATE = ("PYTHONPATH", "PYTHONBREAKPOINT")  # the second is set by ray for all that comes after it


@dataclass(frozen=True)
class Task:
    """What a process is to be: its arguments after the interpreter's name, its folder, variables and open files."""

    arguments: list[str]
    folder: str
    environment: dict[str, str]
    files: tuple[int, int, int]


def early(environment: Any) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(EARLY) and name not in LATE}


def received(connection: socket.socket) -> Task:
    """What a process is asked for.

    Raises:
        ConnectionError: Whoever asked ended before all of it was sent.
    """
    size, files, _, _ = socket.recv_fds(connection, 8, 3)
    content = b""
    while len(content) < int.from_bytes(size, "big") or not size:
        part = connection.recv(1 << 16)
        if not part:
            for file in files:
                os.close(file)
            raise ConnectionError("the request ends early")
        content += part
    arguments, folder, environment = json.loads(content)
    return Task(arguments, folder, environment, (files[0], files[1], files[2]))


def serve(listener: socket.socket, surroundings: dict[str, str]) -> Task:
    """Fork a process for every task that has these early variables; returns in those processes alone."""
    waiting = selectors.DefaultSelector()
    waiting.register(sys.stdin, selectors.EVENT_READ)
    waiting.register(listener, selectors.EVENT_READ)
    children: dict[Any, tuple[int, int, socket.socket]] = {}  # by connection and by pidfd: pid, pidfd, connection
    while True:
        # New ones last: a descriptor of theirs may have the number of one that was ready in this same round.
        for key, _ in sorted(waiting.select(), key=lambda event: event[0].fileobj is listener):
            if key.fileobj is sys.stdin:
                for pid, _, _ in children.values():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                os._exit(0)
            if key.fileobj is not listener:
                if key.fileobj not in children:
                    continue  # ended in this same round
                pid, pidfd, connection = children[key.fileobj]
                if key.fileobj is connection:  # whoever asked for it was killed
                    os.kill(pid, signal.SIGKILL)
                status = os.waitpid(pid, 0)[1]
                with contextlib.suppress(OSError):
                    connection.sendall(b"%d\n" % status)
                for place in (pidfd, connection):
                    waiting.unregister(place)
                    del children[place]
                os.close(pidfd)
                connection.close()
                continue
            connection = listener.accept()[0]
            try:
                task = received(connection)
            except ConnectionError:
                connection.close()
                continue
            option = task.arguments[0].startswith("-") and task.arguments[0] not in ("-c", "-m")
            if option or early(task.environment) != surroundings:
                with contextlib.suppress(OSError):
                    connection.sendall(b"0\n")
                connection.close()
            elif pid := os.fork():
                with contextlib.suppress(OSError):  # whoever asked may be gone; the next round sees it
                    connection.sendall(b"%d\n" % pid)
                pidfd = os.pidfd_open(pid)
                for place in (pidfd, connection):
                    children[place] = (pid, pidfd, connection)
                    waiting.register(place, selectors.EVENT_READ)
            else:
                waiting.close()
                for _, other_pidfd, other in children.values():
                    with contextlib.suppress(OSError):
                        os.close(other_pidfd)
                    other.close()
                connection.close()
                return task
            for file in task.files:
                os.close(file)


def become(task: Task) -> None:
    """Do what Python does with its arguments and surroundings when it starts."""
    for number, file in enumerate(task.files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", 1, errors="backslashreplace", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    os.chdir(task.folder)
    os.environ.clear()
    os.environ.update(task.environment)
    tempfile.tempdir = None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    what, *rest = task.arguments
    first = {"-c": "", "-m": task.folder}.get(what, str(Path(what).parent.resolve()))
    paths = task.environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [first, *filter(None, paths), *sys.path[1:]]
    code: Any = 0
    try:
        _run(what, rest)
    except SystemExit as end:
        code = 0 if end.code is None else end.code
        if not isinstance(code, int):
            raise
    # Ends as Python ends, but leaves the memory as it is: taking apart what all processes share takes longer than many
    # a test. Failures that nothing caught go the ordinary way.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)


def _run(what: str, rest: list[str]) -> None:
    """Run a module, code or a script as the main program."""
    if what == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif what == "-c":
        sys.argv = ["-c", *rest[1:]]
        program = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), program.__dict__)
    else:
        sys.argv = [what, *rest]
        runpy.run_path(what, run_name="__main__")


def main(listener: int) -> Task:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    surroundings = early(os.environ)  # before torch sets some of its own
    with socket.socket(fileno=listener) as sockets:
        for name in SLOW:
            with contextlib.suppress(ImportError):  # then each process does without it, too
                importlib.import_module(name)
        gc.freeze()
        return serve(sockets, surroundings)


if __name__ == "__main__":
    become(main(int(sys.argv[1])))
