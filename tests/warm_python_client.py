"""Stands in for a Python process: SOCKET ARGUMENT..., see `warm_python`. Imports little: every process pays for it."""

import json
import os
import signal
import socket
import sys


def main(place: str, arguments: list[str]) -> None:
    request = json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(place)
        socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
        server.sendall(request)
        answers = server.makefile("rb")
        child = int(answers.readline())
        if child == 0:  # not a process for it
            os.execv(sys.executable, [sys.executable, *arguments])
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: os.kill(child, number))
        code = os.waitstatus_to_exitcode(int(answers.readline()))
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
