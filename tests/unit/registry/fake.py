"""A registry in this process: blobs, manifests, uploads, tokens; and what registries do wrong, switched on by a test."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from berth.model.descriptor import DOCKER_CONFIG, DOCKER_LAYER_GZIP, DOCKER_MANIFEST, OCI_INDEX
from berth.model.digest import Digest, digest_of


@dataclass
class FakeRegistry:
    """`users` turns authentication on: name to password. `scheme` is basic or bearer; `realm` another token server."""

    users: dict[str, str] = field(default_factory=dict)
    scheme: str = "bearer"
    realm: str = ""
    cut_after: int = 0
    cuts: int = 0
    ignore_range: bool = False
    hang: bool = False
    # Answers 429, so many times, with this Retry-After.
    limits: int = 0
    retry_after: str = ""
    without_blobs: bool = False
    catalog: bool = True
    ranges: list[int] = field(default_factory=list)
    redirect_blobs_to: str = ""
    uploads_location: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)
    repositories: dict[str, set[str]] = field(default_factory=dict)
    manifests: dict[tuple[str, str], tuple[bytes, str]] = field(default_factory=dict)
    uploads: dict[str, bytearray] = field(default_factory=dict)
    hits: Counter[str] = field(default_factory=Counter)
    authorizations: list[tuple[str, str]] = field(default_factory=list)
    host: str = ""

    # What tests put in and look at

    def put_image(self, repository: str, tag: str, tars: list[bytes], **changes: Any) -> tuple[bytes, Digest]:
        """An image with one gzip layer for each tar. The configuration's bytes and the manifest's digest."""
        config = {
            "architecture": "amd64",
            "os": "linux",
            "created": "2024-01-01T00:00:00Z",
            "config": {"Cmd": ["sh"], "Labels": {"a": "b"}},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(data) for data in tars]},
            "history": [{"created_by": f"step {n}"} for n in range(len(tars))],
            **changes,
        }
        data = json.dumps(config).encode()
        packed = [gzip.compress(tar, mtime=0) for tar in tars]
        manifest = {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": self._descriptor(repository, data, DOCKER_CONFIG),
            "layers": [self._descriptor(repository, blob, DOCKER_LAYER_GZIP) for blob in packed],
        }
        return data, self.put_manifest(repository, tag, manifest, DOCKER_MANIFEST)

    def _descriptor(self, repository: str, data: bytes, media_type: str) -> dict[str, Any]:
        digest = digest_of(data)
        self.blobs[digest] = data
        self.repositories.setdefault(repository, set()).add(digest)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def put_manifest(self, repository: str, tag: str, document: Any, media_type: str) -> Digest:
        """A manifest as it is, under the tag and its digest."""
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        digest = digest_of(data)
        self.repositories.setdefault(repository, set())
        self.manifests[repository, tag] = self.manifests[repository, digest] = (data, media_type)
        return digest

    def put_index(self, repository: str, tag: str, entries: dict[str, Digest]) -> Digest:
        """An index from platform to manifest digest."""
        manifests = []
        for platform, digest in entries.items():
            system, _, architecture = platform.partition("/")
            data, media_type = self.manifests[repository, digest]
            manifests.append(
                {
                    "mediaType": media_type,
                    "digest": digest,
                    "size": len(data),
                    "platform": {"os": system, "architecture": architecture},
                }
            )
        return self.put_manifest(repository, tag, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}, OCI_INDEX)

    # The server

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[FakeRegistry]:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        server = TestServer(app, host="127.0.0.1")
        await server.start_server()
        self.host = f"127.0.0.1:{server.port}"
        try:
            yield self
        finally:
            await server.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/")
        self.authorizations.append((request.path, request.headers.get("Authorization", "")))
        if path == "token":
            return self._token(request)
        if path.startswith("cdn/"):
            self.hits["cdn"] += 1
            return web.Response(body=self.blobs[path.removeprefix("cdn/")])
        denied = self._check(request)
        if denied is not None:
            return denied
        if self.limits and path != "v2/":
            self.limits -= 1
            self.hits["limited"] += 1
            headers = {"Retry-After": self.retry_after} if self.retry_after else {}
            return _error(429, "TOOMANYREQUESTS", "You have reached your pull rate limit", headers)
        if path == "v2/_catalog" and self.catalog:
            return self._catalog(request)
        if path == "v2/":
            return web.json_response({})
        path = path.removeprefix("v2/")
        for part, handler in (("/manifests/", self._manifest), ("/blobs/uploads/", self._upload), ("/blobs/", self._blob)):
            repository, found, rest = path.partition(part)
            if found:
                self.hits[f"{request.method} {part.strip('/')}"] += 1
                return await handler(request, repository, rest)
        if path.endswith("/tags/list"):
            return self._tags(request, path.removesuffix("/tags/list"))
        return _error(404, "UNSUPPORTED", "no such thing")

    def _check(self, request: web.Request) -> web.Response | None:
        if not self.users:
            return None
        given = request.headers.get("Authorization", "")
        if self.scheme == "basic":
            if given in {_basic(name, password) for name, password in self.users.items()}:
                return None
            challenge = 'Basic realm="fake"'
        else:
            if given in {f"Bearer token-{name}" for name in self.users}:
                return None
            challenge = f'Bearer realm="{self.realm or f"http://{self.host}/token"}",service="fake",scope="repository:x:pull"'
        return _error(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": challenge})

    def _token(self, request: web.Request) -> web.Response:
        self.hits["token"] += 1
        given = request.headers.get("Authorization", "")
        for name, password in self.users.items():
            if given == _basic(name, password):
                return web.json_response({"token": f"token-{name}", "refresh_token": f"identity-{name}"})
        if given:
            return _error(401, "UNAUTHORIZED", "incorrect username or password")
        return web.json_response({"token": "anonymous"})

    async def _manifest(self, request: web.Request, repository: str, reference: str) -> web.StreamResponse:
        if request.method == "PUT":
            data = await request.read()
            for blob in json.loads(data).get("layers", []):
                if blob["digest"] not in self.repositories.get(repository, set()):
                    return _error(400, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry")
            self.put_manifest(repository, reference, data, request.headers["Content-Type"])
            return web.Response(status=201)
        if repository not in self.repositories:
            return _error(404, "NAME_UNKNOWN", "repository name not known to registry")
        if (repository, reference) not in self.manifests:
            return _error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        data, media_type = self.manifests[repository, reference]
        return web.Response(body=data, headers={"Content-Type": media_type, "Docker-Content-Digest": digest_of(data)})

    async def _blob(self, request: web.Request, repository: str, digest: str) -> web.StreamResponse:
        if self.without_blobs or digest not in self.repositories.get(repository, set()):
            return _error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        data = self.blobs[digest]
        if request.method == "GET" and self.redirect_blobs_to:
            raise web.HTTPTemporaryRedirect(f"{self.redirect_blobs_to}/{digest}")
        start = 0
        if "Range" in request.headers and not self.ignore_range:
            start = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            self.ranges.append(start)
        if request.method == "GET" and self.cuts > 0 and len(data) - start > self.cut_after:
            self.cuts -= 1
            return await self._cut(request, data[start : start + self.cut_after], start, len(data))
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        return web.Response(status=206 if start else 200, body=data[start:], headers=headers)

    async def _cut(self, request: web.Request, data: bytes, start: int, total: int) -> web.StreamResponse:
        headers = {"Content-Range": f"bytes {start}-{total - 1}/{total}"} if start else {}
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        response.content_length = total - start
        await response.prepare(request)
        await response.write(data)
        if self.hang:
            await asyncio.sleep(3)
        assert request.transport is not None
        request.transport.close()
        return response

    async def _upload(self, request: web.Request, repository: str, rest: str) -> web.StreamResponse:
        if request.method == "POST":
            digest, source = request.query.get("mount"), request.query.get("from", "")
            if digest in self.repositories.get(source, set()):
                self.repositories.setdefault(repository, set()).add(digest)
                return web.Response(status=201)
            rest = f"upload-{len(self.uploads)}"
            self.uploads[rest] = bytearray()
        elif request.method == "PATCH":
            async for piece in request.content.iter_any():
                self.uploads[rest] += piece
        elif request.method == "PUT":
            data = bytes(self.uploads.pop(rest))
            if digest_of(data) != request.query["digest"]:
                return _error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
            self.blobs[request.query["digest"]] = data
            self.repositories.setdefault(repository, set()).add(request.query["digest"])
            return web.Response(status=201)
        location = f"{self.uploads_location}/v2/{repository}/blobs/uploads/{rest}?_state=a%3D%3D"
        return web.Response(status=202, headers={"Location": location})

    def _catalog(self, request: web.Request) -> web.Response:
        names = [name for name in sorted(self.repositories) if name > request.query.get("last", "")]
        headers = {"Link": f'</v2/_catalog?last={names[0]}&n=1>; rel="next"'} if len(names) > 1 else {}
        return web.json_response({"repositories": names[:1]}, headers=headers)

    def _tags(self, request: web.Request, repository: str) -> web.Response:
        if repository not in self.repositories:
            return _error(404, "NAME_UNKNOWN", "repository name not known to registry")
        tags = sorted(tag for name, tag in self.manifests if name == repository and not tag.startswith("sha256:"))
        last = request.query.get("last", "")
        rest = [tag for tag in tags if tag > last]
        headers = {"Link": f'</v2/{repository}/tags/list?last={rest[0]}&n=1>; rel="next"'} if len(rest) > 1 else {}
        return web.json_response({"name": repository, "tags": rest[:1]}, headers=headers)


def _basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"errors": [{"code": code, "message": message}]}, status=status, headers=headers)
