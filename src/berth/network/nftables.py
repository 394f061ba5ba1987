"""libnftables: the rule language of nft(8) without its process. Each call is one transaction.

The library is loaded at first use. A context is used by one call at a time.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import threading
from _socket import socket
from typing import Any

import msgspec

from berth.errors import BerthError, Unavailable
from berth.kernel.netlink import open_socket
from berth.kernel.nfnetlink import NETLINK_NETFILTER, generation

_JSON, _TERSE, _NUMERIC = 1 << 4, 1 << 11, (1 << 7) | (1 << 8) | (1 << 10)


class RuleError(BerthError):
    """The kernel or the library refused a transaction; the message is the library's."""


class Nftables:
    """A libnftables context."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._library: ctypes.CDLL | None = None
        self._context = ctypes.c_void_p()
        self._netlink: socket | None = None
        self._made: set[int] = set()

    def _load(self) -> ctypes.CDLL:
        if self._library is None:
            try:
                library = ctypes.CDLL("libnftables.so.1")
            except OSError as error:
                raise Unavailable(f"libnftables.so.1 cannot be loaded ({error}): install nftables, networks need it") from error
            library.nft_ctx_new.restype = ctypes.c_void_p
            library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
            library.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
            self._context = ctypes.c_void_p(library.nft_ctx_new(0))
            library.nft_ctx_buffer_output(self._context)
            library.nft_ctx_buffer_error(self._context)
            self._library = library
        return self._library

    def _run(self, text: str, flags: int) -> bytes:
        with self._lock:
            library = self._load()
            library.nft_ctx_output_set_flags(self._context, flags)
            failed = library.nft_run_cmd_from_buffer(self._context, text.encode())
            output: bytes = library.nft_ctx_get_output_buffer(self._context) or b""
            message: bytes = library.nft_ctx_get_error_buffer(self._context) or b""
            if failed:
                raise RuleError("nftables: " + message.decode(errors="replace").strip())
            return bytes(output)

    def run(self, text: str) -> None:
        """Carry out commands as one transaction. RuleError when one of them is refused: then none has happened."""
        before = self._generation()
        self._run(text, 0)
        after = self._generation()
        if after == before + 1:
            # Nobody else has changed anything meanwhile, so this number is that of our own transaction.
            self._made.add(after)

    def _generation(self) -> int:
        with self._lock:
            if self._netlink is None:
                self._netlink = open_socket(NETLINK_NETFILTER)
            return generation(self._netlink)

    def has_made(self, generation: int) -> bool:
        """Whether that change was certainly made by this context. What is older is forgotten."""
        known = generation in self._made
        self._made = {number for number in self._made if number > generation}
        return known

    def close(self) -> None:
        """Let go of the socket; it is opened again when it is needed."""
        with self._lock:
            if self._netlink is not None:
                self._netlink.close()
                self._netlink = None

    def show(self, text: str) -> str:
        """The answer to a list command as text, without the elements of sets."""
        return self._run(text, _TERSE).decode()

    def query(self, text: str) -> list[dict[str, Any]]:
        """The answer to a list command: nft's JSON objects, each {kind: {...}}."""
        answer = self._run(text, _JSON | _TERSE)
        found: list[dict[str, Any]] = msgspec.json.decode(answer)["nftables"] if answer.strip() else []
        return [entry for entry in found if "metainfo" not in entry]
