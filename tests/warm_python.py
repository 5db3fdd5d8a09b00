"""Python processes that have the slow third-party libraries imported already: new ones forked from one that did it.

Most of a command's time on a miniature is the import of torch, of what torch imports, and of pandas. `python` gives the
first words of a command line that means the same as ``[sys.executable]``: the process it starts hands its arguments,
environment, folder and open files to a process forked for it, waits for that, passes signals on, and ends as it ended.
Whatever of Hugging Face reads its settings at import is imported by each process itself, as is this package.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

_HERE = Path(__file__).parent


def python() -> list[str]:
    """The first words of a command line, in place of ``[sys.executable]``.

    Options of Python's other than -c and -m lead to an ordinary process, as do variables that Python or torch read when
    they start. Where the process's own number matters, its limits (``preexec_fn``) or its children, as in tests that
    kill families of processes, ``[sys.executable]`` is right.
    """
    if not hasattr(os, "pidfd_open"):  # not Linux
        return [sys.executable]
    return [sys.executable, "-I", "-S", str(_HERE / "warm_python_client.py"), _server()]


@functools.cache
def _server() -> str:
    """Start the process that others are forked from, once for each process of pytest, and give its socket."""
    folder = Path(tempfile.mkdtemp(prefix="warm-python-"))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket"))
    listener.listen(64)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.Popen(
        [sys.executable, str(_HERE / "warm_python_server.py"), str(listener.fileno())],
        stdin=subprocess.PIPE,  # the server ends when it closes, however this process ends
        env=environment,
        pass_fds=[listener.fileno()],
    )
    listener.close()
    owner = os.getpid()

    def stop() -> None:
        if os.getpid() == owner:  # not in what is forked from it
            process.communicate()
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    return str(folder / "socket")
