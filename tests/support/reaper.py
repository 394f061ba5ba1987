"""Stands for testcontainers' reaper (Ryuk, whose image is in a registry that tests do not reach), and speaks its protocol: who
connects says what belongs to it, and once all connections have been closed that is removed. Runs in a container of its own.

    <- label=org.testcontainers.session-id=...
    -> ACK
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import urllib.parse
from typing import Any


class Engine(http.client.HTTPConnection):
    """The engine's API by the socket that was mounted."""

    def connect(self) -> None:
        """Not to a host."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect("/var/run/docker.sock")


def ask(method: str, path: str) -> Any:
    """A request and its document."""
    engine = Engine("engine")
    engine.request(method, path)
    answer = engine.getresponse().read()
    return json.loads(answer) if answer else None


class Reaper:
    """Counts the connections and collects what they say."""

    def __init__(self, patience: float) -> None:
        self._server = socket.create_server(("", 8080))
        self._server.settimeout(patience)
        self._filters: set[str] = set()
        self._held: set[threading.Thread] = set()

    def serve(self) -> None:
        """Until nobody has been connected for a while."""
        print("Started!", flush=True)
        while True:
            try:
                connection, _ = self._server.accept()
            except TimeoutError:
                if any(thread.is_alive() for thread in self._held):
                    continue
                return
            thread = threading.Thread(target=self._listen, args=(connection,))
            thread.start()
            self._held.add(thread)

    def _listen(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rw") as lines:
            for line in lines:
                self._filters.add(line.strip())
                lines.write("ACK\n")
                lines.flush()

    def remove(self) -> None:
        """The containers that were told of."""
        for text in self._filters:
            labels = [value for key, value in urllib.parse.parse_qsl(text) if key == "label"]
            wanted = urllib.parse.quote(json.dumps({"label": labels}))
            for container in ask("GET", f"/containers/json?all=1&filters={wanted}"):
                ask("DELETE", f"/containers/{container['Id']}?force=1&v=1")


if __name__ == "__main__":
    reaper = Reaper(float(os.environ["RYUK_RECONNECTION_TIMEOUT"].rstrip("s")))
    reaper.serve()
    reaper.remove()
