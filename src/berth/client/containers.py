"""Containers over the API."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct, field, to_builtins

from berth.client.decode import decode
from berth.client.engine import Engine, FilterMap, Progress, encode_filters
from berth.client.stream import MULTIPLEXED, STDOUT, Frame, Hijacked, demultiplex, json_lines
from berth.client.wireline import Body, Response
from berth.errors import DataLoss, NotFound, NotModified
from berth.wire.container import (
    ContainerConfig,
    ContainerCreateResponse,
    ContainerInspectResponse,
    ContainerSummary,
    ContainerTopResponse,
    ContainerWaitResponse,
    FilesystemChange,
    HostConfig,
)
from berth.wire.network import NetworkingConfig, PortBinding

Bindings = Mapping[str, list[PortBinding] | None]


class CreateBody(ContainerConfig, kw_only=True, omit_defaults=True):
    """What POST /containers/create takes: the configuration with two more members."""

    host_config: HostConfig | None = field(name="HostConfig", default=None)
    networking_config: NetworkingConfig | None = field(name="NetworkingConfig", default=None)
    mac_address: str | None = field(name="MacAddress", default=None)


Changes = list[FilesystemChange]


class PathStat(Struct, kw_only=True):
    """A file inside a container. `mode` holds Go's mode bits: the top bit is the directory bit, bit 27 a symbolic link."""

    name: str
    size: int
    mode: int
    mtime: str = ""
    link_target: str = field(name="linkTarget", default="")

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return bool(self.mode & (1 << 31))

    @property
    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return bool(self.mode & (1 << 27))


class Containers:
    """`name` is a name or an id, or the unambiguous beginning of an id, everywhere."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def list(
        self,
        *,
        all: bool = False,
        filters: FilterMap | None = None,
        limit: int | None = None,
        size: bool = False,
    ) -> list[ContainerSummary]:
        """Summaries, newest first; only running ones without `all`."""
        query = {"all": all or None, "filters": encode_filters(filters), "limit": limit, "size": size or None}
        return self._engine.typed(list[ContainerSummary], "GET", "/containers/json", query=query)

    def create(self, body: CreateBody, *, name: str | None = None, platform: str | None = None) -> ContainerCreateResponse:
        """Create. Raises NotFound with Docker's "No such image: x" when the image has to be pulled first."""
        return self._engine.typed(
            ContainerCreateResponse, "POST", "/containers/create", query={"name": name, "platform": platform}, body=body
        )

    def inspect(self, name: str) -> ContainerInspectResponse:
        """Everything about one."""
        return self._engine.typed(ContainerInspectResponse, "GET", f"/containers/{name}/json")

    def inspect_raw(self, name: str, *, size: bool = False) -> Any:
        """As the engine wrote it, for display."""
        return self._engine.json("GET", f"/containers/{name}/json", query={"size": size or None})

    def change_ports(self, name: str, *, publish: Bindings | None = None, unpublish: Bindings | None = None) -> None:
        """Publish more or fewer ports, at once: an extension of berthd. The maps are those of HostConfig.PortBindings."""
        body = {"Publish": to_builtins(publish or {}), "Unpublish": to_builtins(unpublish or {})}
        try:
            self._engine.json("POST", f"/berth/containers/{name}/ports", body=body)
        except NotFound as error:
            if error.message.startswith(("No such container", "port ")):
                raise
            raise NotFound("this engine is not berthd: it changes no ports of a container that there is") from error

    def rotate_log(self, name: str) -> None:
        """Begin a new log file: an extension of berthd. Conflict when the container does not run."""
        try:
            self._engine.json("POST", f"/berth/containers/{name}/logs/rotate")
        except NotFound as error:
            if error.message.startswith("No such container"):
                raise
            raise NotFound("this engine is not berthd: it rotates logs by their size alone") from error

    def explain(self, name: str) -> Any:
        """Why it is in the state it is in: an extension of berthd. NotFound when there is no such container, or not berthd."""
        try:
            return self._engine.json("GET", f"/berth/containers/{name}/explain")
        except NotFound as error:
            if error.message.startswith("No such container"):
                raise
            raise NotFound("this engine is not berthd: it keeps no record of why a container ended") from error

    def start(self, name: str, *, detach_keys: str | None = None) -> bool:
        """Start; False when it ran already."""
        return self._change(f"/containers/{name}/start", {"detachKeys": detach_keys})

    def stop(self, name: str, *, timeout: int | None = None, signal: str | None = None) -> bool:
        """Stop within `timeout` seconds (-1 waits for ever, None takes the container's own); False when it did not run."""
        return self._change(f"/containers/{name}/stop", {"t": timeout, "signal": signal})

    def restart(self, name: str, *, timeout: int | None = None, signal: str | None = None) -> None:
        """Stop and start."""
        self._change(f"/containers/{name}/restart", {"t": timeout, "signal": signal})

    def kill(self, name: str, *, signal: str | None = None) -> None:
        """Send a signal, KILL by default."""
        self._change(f"/containers/{name}/kill", {"signal": signal})

    def pause(self, name: str) -> None:
        """Freeze."""
        self._change(f"/containers/{name}/pause", {})

    def unpause(self, name: str) -> None:
        """Thaw."""
        self._change(f"/containers/{name}/unpause", {})

    def rename(self, name: str, new: str) -> None:
        """Give another name."""
        self._change(f"/containers/{name}/rename", {"name": new})

    def remove(self, name: str, *, force: bool = False, volumes: bool = False, link: bool = False) -> None:
        """Remove; `volumes` with its anonymous volumes."""
        query = {"force": force or None, "v": volumes or None, "link": link or None}
        self._engine.raw("DELETE", f"/containers/{name}", query=query)

    def wait(self, name: str, *, condition: str | None = None) -> ContainerWaitResponse:
        """Wait for not-running (default), next-exit or removed."""
        return self._engine.typed(ContainerWaitResponse, "POST", f"/containers/{name}/wait", query={"condition": condition})

    def begin_wait(self, name: str, *, condition: str | None = None) -> Response:
        """As `wait`, returning as soon as the engine has registered the wish; `finish_wait` gives the result.

        This closes the race between waiting for a container and starting it.
        """
        return self._engine.request("POST", f"/containers/{name}/wait", query={"condition": condition})

    def finish_wait(self, response: Response) -> ContainerWaitResponse:
        """The result of `begin_wait`."""
        return decode(response.read(), ContainerWaitResponse)

    def resize(self, name: str, *, height: int, width: int) -> None:
        """The size of the terminal, in characters."""
        self._change(f"/containers/{name}/resize", {"h": height, "w": width})

    def attach(
        self,
        name: str,
        *,
        tty: bool,
        stdin: bool = False,
        stdout: bool = True,
        stderr: bool = True,
        logs: bool = False,
        detach_keys: str | None = None,
    ) -> Hijacked:
        """Attach to the standard streams of the main process."""
        query = {
            "stream": True,
            "stdin": stdin,
            "stdout": stdout,
            "stderr": stderr,
            "logs": logs or None,
            "detachKeys": detach_keys,
        }
        return self._engine.hijack(f"/containers/{name}/attach", tty=tty, query=query)

    def logs(
        self,
        name: str,
        *,
        tty: bool,
        follow: bool = False,
        tail: str = "all",
        since: str | None = None,
        until: str | None = None,
        timestamps: bool = False,
        details: bool = False,
        stdout: bool = True,
        stderr: bool = True,
    ) -> Iterator[Frame]:
        """The log as frames; `since` and `until` as seconds of the epoch. The iterator owns the connection: close it."""
        query = {
            "follow": follow or None,
            "tail": tail,
            "since": since,
            "until": until,
            "timestamps": timestamps or None,
            "details": details or None,
            "stdout": stdout,
            "stderr": stderr,
        }
        response = self._engine.request("GET", f"/containers/{name}/logs", query=query)
        return _frames(response, raw=tty and response.headers.get("content-type") != MULTIPLEXED)

    def top(self, name: str, *, ps_args: str | None = None) -> ContainerTopResponse:
        """Its processes."""
        return self._engine.typed(ContainerTopResponse, "GET", f"/containers/{name}/top", query={"ps_args": ps_args})

    def stats(self, name: str, *, stream: bool = True, one_shot: bool = False) -> Progress:
        """Statistics as the engine writes them, one per second with `stream`."""
        query = {"stream": stream, "one-shot": one_shot or None}
        return json_lines(self._engine.request("GET", f"/containers/{name}/stats", query=query))

    def changes(self, name: str) -> Changes:
        """What differs from the image (diff)."""
        raw = self._engine.raw("GET", f"/containers/{name}/changes")
        return decode(raw, Changes) if raw.strip() != b"null" else []

    def update(self, name: str, changes: object) -> Any:
        """Change limits or the restart policy; `changes` is a Resources with a RestartPolicy, or plain values."""
        return self._engine.json("POST", f"/containers/{name}/update", body=changes)

    def export(self, name: str) -> Response:
        """The file system as a tar, in pieces."""
        return self._engine.request("GET", f"/containers/{name}/export")

    def stat_path(self, name: str, path: str) -> PathStat:
        """About one path inside; NotFound when it is not there."""
        response = self._engine.request("HEAD", f"/containers/{name}/archive", query={"path": path})
        return _path_stat(response)

    def get_archive(self, name: str, path: str) -> tuple[PathStat, Response]:
        """A path as a tar, in pieces."""
        response = self._engine.request("GET", f"/containers/{name}/archive", query={"path": path})
        return _path_stat(response), response

    def put_archive(self, name: str, path: str, tar: Body, *, no_overwrite: bool = False, copy_ids: bool = False) -> None:
        """Unpack a tar into a directory inside."""
        query = {
            "path": path,
            "noOverwriteDirNonDir": "true" if no_overwrite else None,
            "copyUIDGID": "true" if copy_ids else None,
        }
        headers = {"Content-Type": "application/x-tar"}
        self._engine.request("PUT", f"/containers/{name}/archive", query=query, body=tar, headers=headers).read()

    def prune(self, *, filters: FilterMap | None = None) -> Any:
        """Remove all that are stopped."""
        return self._engine.json("POST", "/containers/prune", query={"filters": encode_filters(filters)})

    def _change(self, path: str, query: Mapping[str, str | int | bool | None]) -> bool:
        try:
            self._engine.raw("POST", path, query=query)
        except NotModified:
            return False
        return True


def _frames(response: Response, *, raw: bool) -> Iterator[Frame]:
    try:
        if raw:
            for piece in response:
                yield STDOUT, piece
        else:
            yield from demultiplex(response)
    finally:
        response.close()


def _path_stat(response: Response) -> PathStat:
    text = response.headers.get("x-docker-container-path-stat")
    if not text:
        raise DataLoss("the engine sent no X-Docker-Container-Path-Stat header")
    return decode(base64.b64decode(text), PathStat)
