"""cp: files between a service's container and here."""

from __future__ import annotations

import io
import os
import tarfile
from dataclasses import dataclass

from berth.compose.commands.ps import pick
from berth.compose.observe import Existing
from berth.compose.session import Session
from berth.errors import InvalidArgument, NotFound


@dataclass(frozen=True)
class CopyOptions:
    """Options of cp. One of the two places is SERVICE:PATH."""

    source: str
    target: str
    index: int = 0
    archive: bool = False
    follow_link: bool = False


def run(session: Session, options: CopyOptions) -> int:
    """Copy one way."""
    from_service, from_path = _split(options.source)
    to_service, to_path = _split(options.target)
    if from_service and to_service:
        raise InvalidArgument("copying between services is not supported")
    if from_service:
        _out(session, pick(session, from_service, options.index), from_path, to_path)
    elif to_service:
        _into(session, pick(session, to_service, options.index), from_path, to_path, options)
    else:
        raise InvalidArgument("unknown copy direction: one of source and target has to be SERVICE:PATH")
    return 0


def _split(place: str) -> tuple[str, str]:
    service, colon, path = place.partition(":")
    if not colon or "/" in service or service.startswith("."):
        return "", place
    return service, path


def _out(session: Session, container: Existing, source: str, target: str) -> None:
    stat, response = session.engine.containers.get_archive(container.id, source)
    raw = response.read()
    if target == "-":
        session.out.buffer.write(raw)
        return
    inside = os.path.isdir(target)
    if target.endswith("/") and not inside:
        raise NotFound(f"no such directory: {target}")
    folder = target if inside else os.path.dirname(target) or "."
    if not os.path.isdir(folder):
        raise NotFound(f"no such directory: {folder}")
    renamed = None if inside else os.path.basename(target)
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        for member in tar:
            if renamed is not None:
                first, slash, rest = member.name.partition("/")
                member.name = renamed + slash + rest if first == stat.name else member.name
            tar.extract(member, folder, filter="data")


def _into(session: Session, container: Existing, source: str, target: str, options: CopyOptions) -> None:
    if source == "-":
        raise InvalidArgument("reading a tar from standard input is not supported here: use `cp` of the engine")
    if not os.path.lexists(source):
        raise NotFound(f"no such file or directory: {source}")
    name, folder = os.path.basename(os.path.abspath(source)), target or "/"
    try:
        if not session.engine.containers.stat_path(container.id, folder).is_dir or (not target.endswith("/") and not folder):
            raise NotFound(folder)
    except NotFound:
        if target.endswith("/"):
            raise NotFound(f"no such directory in {container.name}: {target}") from None
        folder, name = os.path.dirname(target) or "/", os.path.basename(target)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT, dereference=options.follow_link) as tar:
        tar.add(source, arcname=name, filter=None if options.archive else _as_root)
    session.engine.containers.put_archive(container.id, folder, packed.getvalue(), copy_ids=options.archive)


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
