"""image bootstrap: a base image made from Debian's packages, where no registry can be reached.

mmdebstrap runs here, in the client, and writes a tar that is imported as it comes. The packages come from where the host's
apt gets them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import IO

import click

from berth.cli import progress
from berth.cli.command import declare
from berth.cli.session import engine
from berth.errors import InvalidArgument, Unavailable
from berth.model.reference import parse
from berth.model.units import human_size

_PIECE = 1 << 18
# What every use of the image would remove anyway: caches, documentation, the log of the installation.
_EXCLUDED = (
    "/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/var/cache/apt/*.bin",
    "/var/lib/apt/lists/*_Packages", "/var/log/*.log", "/var/log/apt/*",
)  # fmt: skip


def command(suite: str, variant: str, include: tuple[str, ...]) -> list[str]:
    """The call of mmdebstrap, which writes the tar to standard output."""
    kept = ["/usr/share/doc/*/copyright", "/usr/share/locale/locale.alias"]
    options = [f"--dpkgopt=path-exclude={path}" for path in _EXCLUDED[:4]] + [f"--dpkgopt=path-include={path}" for path in kept]
    clean = (
        "--customize-hook=rm -rf $1/var/lib/apt/lists/* $1/var/cache/apt/*.bin $1/var/log/*.log $1/var/log/apt $1/etc/hostname"
    )
    # A container has no init: nothing that a package installs may be started, and apt need not flush.
    policy = "--customize-hook=printf '#!/bin/sh\\nexit 101\\n' > $1/usr/sbin/policy-rc.d && chmod 755 $1/usr/sbin/policy-rc.d"
    apt = "--customize-hook=echo 'force-unsafe-io' > $1/etc/dpkg/dpkg.cfg.d/berth"
    more = [f"--include={','.join(include)}"] if include else []
    return ["mmdebstrap", "--quiet", f"--variant={variant}", "--format=tar", *options, *more, policy, apt, clean, suite, "-"]


class _Meter:
    """Counts what goes through and says so: on a terminal as it goes, elsewhere once at the end."""

    def __init__(self, what: str, quiet: bool) -> None:
        self._what, self._quiet = what, quiet
        self._count, self._begun, self._shown = 0, time.monotonic(), 0.0
        self._live = sys.stderr.isatty() and not quiet

    def add(self, size: int) -> None:
        """So many bytes more."""
        self._count += size
        now = time.monotonic()
        if self._live and now - self._shown > 0.2:
            self._shown = now
            sys.stderr.write(f"\r\x1b[2K{self._what}: {human_size(self._count, 3)} in {now - self._begun:.0f} s")
            sys.stderr.flush()

    def done(self) -> None:
        """The last word."""
        if not self._quiet:
            text = f"{self._what}: {human_size(self._count, 3)} in {time.monotonic() - self._begun:.0f} s"
            sys.stderr.write(f"\r\x1b[2K{text}\n" if self._live else text + "\n")


def _stream(process: subprocess.Popen[bytes], meter: _Meter, errors: list[bytes]) -> Iterator[bytes]:
    assert process.stdout is not None and process.stderr is not None
    reader = threading.Thread(target=_collect, args=(process.stderr, errors), daemon=True)
    reader.start()
    while piece := process.stdout.read(_PIECE):
        meter.add(len(piece))
        yield piece
    reader.join()
    if process.wait() != 0:
        text = b"".join(errors).decode(errors="replace").strip()
        raise Unavailable(
            f"mmdebstrap failed with exit code {process.returncode}: check the suite's name and apt's sources.\n{text[-2000:]}"
        )


def _collect(file: IO[bytes], into: list[bytes]) -> None:
    into.extend(file)


@declare("bootstrap")
@click.option("--suite", help="Debian suite, such as trixie or bookworm (default: the tag)")
@click.option("--variant", default="minbase", show_default=True, help="mmdebstrap variant")
@click.option("--include", multiple=True, help="Further packages")
@click.option("-q", "--quiet", is_flag=True, help="Only print the image ID")
@click.argument("image", metavar="NAME:TAG")
def bootstrap(image: str, suite: str | None, variant: str, include: tuple[str, ...], quiet: bool) -> None:
    """Make a base image from Debian's packages (needs mmdebstrap and root)."""
    reference = parse(image)
    chosen = suite or reference.tag or ""
    if chosen in ("", "latest"):
        raise InvalidArgument("say which Debian suite to take: --suite trixie, or a tag such as debian:trixie")
    if shutil.which("mmdebstrap") is None:
        raise InvalidArgument("mmdebstrap is not installed: apt-get install mmdebstrap")
    target = engine()
    target.system.ping()
    meter, errors = _Meter(f"Bootstrapping {image} from {chosen}", quiet), list[bytes]()
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    process = subprocess.Popen(
        command(chosen, variant, include),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    try:
        messages = target.images.import_tar(
            _stream(process, meter, errors),
            repo=reference.familiar_name,
            tag=reference.tag,
            message=f"bootstrapped from Debian {chosen}",
            changes=['CMD ["bash"]'],
        )
        progress.show(messages)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()
    meter.done()


COMMANDS = {"bootstrap": bootstrap}
