"""Where an engine is: unix sockets, tcp with and without TLS."""

from __future__ import annotations

import os
import socket

from msgspec import Struct
from msgspec.structs import replace

from berth.errors import Forbidden, InvalidArgument, NotImplementedKind, Unavailable

BERTH_SOCKET = "/run/berth/berth.sock"


class Address(Struct, frozen=True):
    """A unix socket's `path`, or `host` and `port`, with the directory of the TLS certificates when TLS is used."""

    path: str | None = None
    host: str = ""
    port: int = 0
    certificates: str | None = None
    verify: bool = True

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix://{self.path}"
        return f"tcp://{self.host}:{self.port}"

    def open(self) -> socket.socket:
        """A new connection. Raises Unavailable (nobody answers) or Forbidden (no right to the socket)."""
        try:
            if self.path is not None:
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                try:
                    sock.connect(self.path)
                except BaseException:
                    sock.close()
                    raise
                return sock
            sock = socket.create_connection((self.host, self.port), timeout=30)
            sock.settimeout(None)
            return self._secure(sock) if self.certificates is not None else sock
        except PermissionError as error:
            raise Forbidden(
                f"permission denied while trying to connect to the Docker daemon socket at {self}: join the group that owns "
                "the socket, or use sudo"
            ) from error
        except OSError as error:
            raise Unavailable(
                f"Cannot connect to the Docker daemon at {self}. Is the docker daemon running? ({error.strerror or error})"
            ) from error

    def _secure(self, sock: socket.socket) -> socket.socket:
        import ssl

        folder = self.certificates or ""
        context = ssl.create_default_context(cafile=os.path.join(folder, "ca.pem") if self.verify else None)
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        certificate = os.path.join(folder, "cert.pem")
        if os.path.exists(certificate):
            context.load_cert_chain(certificate, os.path.join(folder, "key.pem"))
        return context.wrap_socket(sock, server_hostname=self.host)


def parse_host(text: str) -> Address:
    """An address from what DOCKER_HOST and --host hold. Raises InvalidArgument."""
    scheme, separator, rest = text.strip().partition("://")
    if not separator:
        raise InvalidArgument(f"unable to parse docker host `{text}`: write unix:///path or tcp://host:port")
    if scheme == "unix":
        return Address(path=rest or BERTH_SOCKET)
    if scheme in ("tcp", "http", "https"):
        name, _, port = rest.rstrip("/").rpartition(":")
        if not port.isdigit():
            name, port = rest.rstrip("/"), "2376" if scheme == "https" else "2375"
        return Address(host=name.strip("[]") or "127.0.0.1", port=int(port), certificates="" if scheme == "https" else None)
    if scheme == "ssh":
        raise NotImplementedKind(
            "hosts over ssh:// are not there yet: forward the socket (ssh -L local.sock:/run/berth/berth.sock) and use unix://"
        )
    raise InvalidArgument(f"unable to parse docker host `{text}`: unknown scheme {scheme}://")


def from_environment(address: Address) -> Address:
    """With DOCKER_TLS_VERIFY and DOCKER_CERT_PATH applied, as far as they concern this address."""
    wanted = os.environ.get("DOCKER_TLS_VERIFY") or os.environ.get("DOCKER_TLS")
    if address.path is not None or not (wanted or address.certificates is not None):
        return address
    folder = os.environ.get("DOCKER_CERT_PATH") or os.path.expanduser("~/.docker")
    return replace(address, certificates=folder, verify=bool(os.environ.get("DOCKER_TLS_VERIFY")))


def listens(path: str) -> bool:
    """Whether something listens at a unix socket. The file alone says little: a killed engine leaves it behind."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except PermissionError:
            return True
        except OSError:
            return False
    return True
