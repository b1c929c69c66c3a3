"""A real MLflow server for tests, to start, kill and start again."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from dmf.tracking import server_command, server_environment


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """`dmf ui` over one database on a port of its own, in the current directory."""

    def __init__(self, database: str) -> None:
        self.database = database
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, log: Path) -> None:
        """Start the server and wait until it answers."""
        command = server_command(self.database, port=self.port)
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                env=server_environment(self.database, port=self.port),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(OSError):
                urllib.request.urlopen(self.uri + "/health", timeout=2).close()
                return
            time.sleep(0.1)
        raise RuntimeError(f"no MLflow server: {log.read_text()}")

    def kill(self) -> None:
        """Kill the server and its workers without warning."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.uri + path, timeout=30) as answer:
            content: bytes = answer.read()
        return content
