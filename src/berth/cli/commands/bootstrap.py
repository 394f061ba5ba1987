"""image bootstrap: a base image made from Debian's packages, where no registry can be reached.

mmdebstrap runs here, in the client, and writes a tar that is imported as it comes. The packages come from where the host's
apt gets them.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import IO

import click

from berth.cli import progress
from berth.cli.command import declare
from berth.cli.session import engine
from berth.errors import Forbidden, InvalidArgument, Unavailable
from berth.model.reference import parse

_PIECE = 1 << 18
_END_SECONDS = 20.0
_NUMBERS = {"11": "bullseye", "12": "bookworm", "13": "trixie", "14": "forky"}
_UBUNTU = frozenset({"bionic", "focal", "jammy", "noble", "oracular", "plucky", "questing"})
_UBUNTU_KEYS = "/usr/share/keyrings/ubuntu-archive-keyring.gpg"
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


def suite_of(tag: str) -> str:
    """The suite that a tag means: `bookworm-slim` is bookworm, 12 and 12.5 are its number. Empty when it means none."""
    name = tag.removesuffix("-slim")
    number = name.partition(".")[0]
    return "" if name == "latest" else _NUMBERS.get(number, name)


def check_suite(suite: str, name: str) -> None:
    """InvalidArgument when this suite cannot be had on this host, with the reason."""
    if not suite:
        raise InvalidArgument("say which Debian suite to take: --suite trixie, or a tag such as debian:trixie")
    if not re.fullmatch(r"[a-z][a-z0-9.-]*", suite):
        raise InvalidArgument(f"{suite!r} is not the name of a suite: give one such as trixie or bookworm")
    if (suite in _UBUNTU or name.rpartition("/")[2] == "ubuntu") and not os.path.exists(_UBUNTU_KEYS):
        raise InvalidArgument(
            f"Ubuntu's {suite} cannot be bootstrapped here: the keys of its archive are not installed ({_UBUNTU_KEYS}): "
            "install the package ubuntu-keyring, or take a Debian suite, such as debian:trixie"
        )


def _failure(process: subprocess.Popen[bytes], errors: list[bytes], suite: str) -> Unavailable:
    """The last lines say why; what came before is what went well."""
    lines = b"".join(errors).decode(errors="replace").strip().splitlines()
    shown = [line for line in lines if line.startswith(("E:", "W:", "Err:"))][-8:] or lines[-8:]
    return Unavailable(
        f"mmdebstrap failed with exit code {process.returncode}: is {suite!r} a suite of Debian, and does `apt-get update` work "
        "on this host?\n" + "\n".join(shown)
    )


def _stream(process: subprocess.Popen[bytes], meter: progress.Meter, errors: list[bytes], suite: str) -> Iterator[bytes]:
    """The tar as it comes. An error here leaves the request unfinished, so that the engine makes no image of a part."""
    assert process.stdout is not None and process.stderr is not None
    reader = threading.Thread(target=_collect, args=(process.stderr, errors), daemon=True)
    reader.start()
    while piece := process.stdout.read(_PIECE):
        meter.add(len(piece))
        yield piece
    reader.join()
    if process.wait() != 0:
        raise _failure(process, errors, suite)


def _collect(file: IO[bytes], into: list[bytes]) -> None:
    into.extend(file)


def _end(process: subprocess.Popen[bytes]) -> None:
    """mmdebstrap takes its mounts and its directory away when it is told to end; it gets the time for it."""
    if process.poll() is not None:
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.terminate()
        if process.stdout is not None:
            process.stdout.close()
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        signal.signal(signal.SIGINT, before)


@declare("bootstrap")
@click.option("--suite", help="Debian suite, such as trixie or bookworm (default: the tag)")
@click.option("--variant", default="minbase", show_default=True, help="mmdebstrap variant")
@click.option("--include", multiple=True, help="Further packages")
@click.option("-q", "--quiet", is_flag=True, help="Only print the image ID")
@click.argument("image", metavar="NAME:TAG")
def bootstrap(image: str, suite: str | None, variant: str, include: tuple[str, ...], quiet: bool) -> None:
    """Make a base image from Debian's packages (needs mmdebstrap and root)."""
    reference = parse(image)
    chosen = suite or suite_of(reference.tag or "")
    check_suite(chosen, reference.familiar_name)
    if shutil.which("mmdebstrap") is None:
        raise InvalidArgument("mmdebstrap is not installed: apt-get install mmdebstrap")
    if os.geteuid() != 0:
        raise Forbidden("bootstrapping needs root, since it installs packages into a directory: use sudo")
    target = engine()
    target.system.ping()
    meter, errors = progress.Meter(f"Bootstrapping {image} from {chosen}", quiet=quiet), list[bytes]()
    if not quiet:
        print(f"Bootstrapping {image} from Debian's packages ({chosen}); this takes a minute or two", file=sys.stderr)
    process = subprocess.Popen(
        command(chosen, variant, include),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"},
    )
    try:
        messages = target.images.import_tar(
            _stream(process, meter, errors, chosen),
            repo=reference.familiar_name,
            tag=reference.tag,
            message=f"bootstrapped from {chosen}",
            changes=['CMD ["bash"]'],
        )
        meter.clear()
        progress.show(messages)
    finally:
        meter.clear()
        _end(process)
    if not quiet:
        print(meter.summary(), file=sys.stderr)


COMMANDS = {"bootstrap": bootstrap}
