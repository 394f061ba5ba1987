"""Where an engine is: unix sockets, tcp with and without TLS, and another host's engine by ssh."""

from __future__ import annotations

import os
import socket

from msgspec import Struct
from msgspec.structs import replace

from berth.errors import Forbidden, InvalidArgument, Unavailable

BERTH_SOCKET = "/run/berth/berth.sock"


class Tls(Struct, frozen=True):
    """Files in PEM. Without a certificate of ours, the engine must not ask for one."""

    ca: str
    certificate: str
    key: str
    verify: bool = True


class Address(Struct, frozen=True):
    """A unix socket's `path`; or `host` and `port`, with TLS or without; or `ssh`, the command that is a connection."""

    path: str | None = None
    host: str = ""
    port: int = 0
    tls: Tls | None = None
    secure: bool = False
    ssh: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix://{self.path}"
        if self.ssh:
            return f"ssh://{self.host}"
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
            if self.ssh:
                return _spawn(self.ssh)
            sock = socket.create_connection((self.host, self.port), timeout=30)
            sock.settimeout(None)
            if self.tls is None:
                return sock
            from berth.client.tls import secured

            return secured(sock, self.tls, self.host)
        except PermissionError as error:
            raise Forbidden(
                f"permission denied while trying to connect to the Docker daemon socket at {self}: join the group that owns "
                "the socket, or use sudo"
            ) from error
        except OSError as error:
            raise Unavailable(
                f"Cannot connect to the Docker daemon at {self}. Is the docker daemon running? ({error.strerror or error})"
            ) from error


def _spawn(command: tuple[str, ...]) -> socket.socket:
    """A connection that is a process: its standard input and output are our socket's other end. It ends with the connection."""
    import subprocess

    ours, theirs = socket.socketpair()
    with theirs:
        # Nobody waits for it; a new session keeps the terminal's Ctrl-C away, which is ours to act on.
        subprocess.Popen(command, stdin=theirs.fileno(), stdout=theirs.fileno(), start_new_session=True)
    return ours


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
        return Address(host=name.strip("[]") or "127.0.0.1", port=int(port), secure=scheme == "https")
    if scheme == "ssh":
        return _over_ssh(text, rest)
    raise InvalidArgument(f"unable to parse docker host `{text}`: unknown scheme {scheme}://")


def _over_ssh(text: str, rest: str) -> Address:
    """ssh://[user@]host[:port][/socket]: what docker runs, with berth at the other end."""
    target, slash, path = rest.partition("/")
    name, _, port = target.partition(":")
    if not name.rpartition("@")[2] or name.startswith("-") or (port and not port.isdigit()):
        raise InvalidArgument(f"unable to parse docker host `{text}`: write ssh://user@host or ssh://user@host:port")
    options = ("-p", port) if port else ()
    socket_ = ("-H", f"unix:///{path}") if slash and path else ()
    command = ("ssh", "-o", "ConnectTimeout=30", "-T", *options, "--", name, "berth", *socket_, "system", "dial-stdio")
    return Address(host=rest, ssh=command)


def from_environment(address: Address, tls: Tls | None = None) -> Address:
    """With `tls` (of the command line), else DOCKER_TLS_VERIFY and DOCKER_CERT_PATH, as far as they concern this address."""
    wanted = os.environ.get("DOCKER_TLS_VERIFY") or os.environ.get("DOCKER_TLS")
    if not address.port or not (tls or wanted or address.secure):
        return address
    return replace(address, tls=tls or files_of(verify=bool(os.environ.get("DOCKER_TLS_VERIFY"))))


def files_of(*, verify: bool, ca: str = "", certificate: str = "", key: str = "") -> Tls:
    """The files that are named, else those of DOCKER_CERT_PATH or ~/.docker."""
    folder = os.environ.get("DOCKER_CERT_PATH") or os.path.expanduser("~/.docker")
    return Tls(
        ca=ca or os.path.join(folder, "ca.pem"),
        certificate=certificate or os.path.join(folder, "cert.pem"),
        key=key or os.path.join(folder, "key.pem"),
        verify=verify,
    )


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
