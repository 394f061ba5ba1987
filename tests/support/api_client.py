"""Requests to an engine as they are, without a client's opinion of them."""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """Status, headers (lower case) and body of an answer; `document` is what the body says in JSON."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        """The JSON; ValueError when it is none."""
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        """The documents of a stream of them."""
        return [json.loads(line) for line in self.body.splitlines() if line.strip()]


def ask(
    path_of_socket: str, method: str, path: str, body: Any = None, *, kind: str = "application/json", timeout: float = 30,
    headers: dict[str, str] | None = None,
) -> Answer:
    """One request on a connection of its own. A body that is no bytes is sent as JSON."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection = http.client.HTTPConnection("engine", timeout=timeout)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(timeout)
    try:
        connection.sock.connect(path_of_socket)
        connection.request(method, path, data, (headers or {}) | ({"Content-Type": kind} if data is not None else {}))
        answer = connection.getresponse()
        text = b"" if answer.status == 101 else answer.read()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, text)
    finally:
        connection.close()
