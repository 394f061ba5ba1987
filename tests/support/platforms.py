"""An image of several platforms as an OCI layout on disk: busybox for the host, anything for another, an attestation of each."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from berth.model.descriptor import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST
from berth.registry.manifest import host_platform
from support.engine import busybox_tar

PREDICATE = "https://slsa.dev/provenance/v0.2"
OTHER = "s390x"


@dataclass
class Layout:
    """The directory, and what is in it: digests of the index and by architecture of manifests and configurations."""

    path: Path
    index: str
    manifests: dict[str, str]
    configs: dict[str, str]

    @property
    def host(self) -> str:
        """The architecture that can be run."""
        return host_platform().architecture

    def document(self, digest: str) -> bytes:
        """A blob."""
        algorithm, _, digits = digest.partition(":")
        return (self.path / "blobs" / algorithm / digits).read_bytes()

    def tar(self) -> bytes:
        """The layout as an archive, as BuildKit's `--output type=oci` makes it."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            archive.add(self.path, ".")
        return out.getvalue()

    def push(self, target: str) -> None:
        """To a registry, by skopeo."""
        command = ["skopeo", "copy", "--all", "--dest-tls-verify=false", f"oci:{self.path}:multi", f"docker://{target}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr


def small_tar(**files: str) -> bytes:
    """A layer of small files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(text), 0o644, 1_600_000_000
            archive.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


def layout(path: Path, name: str = "multi", *, nested: bool = False, algorithm: str = "sha256", base: bytes = b"") -> Layout:
    """Write one. `nested` puts the index into another, as BuildKit does; `algorithm` is that of the digests of blobs and
    documents (diff ids are always sha256); `base` is the host's first layer in place of busybox."""
    blobs = path / "blobs" / algorithm
    blobs.mkdir(parents=True)
    (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def put(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        digits = hashlib.new(algorithm, data).hexdigest()
        (blobs / digits).write_bytes(data)
        return {"mediaType": media_type, "digest": f"{algorithm}:{digits}", "size": len(data), **more}

    def document(media_type: str, **fields: Any) -> bytes:
        return json.dumps({"schemaVersion": 2, "mediaType": media_type, **fields}, indent=2).encode()

    host = host_platform().architecture
    entries, manifests, configs = [], {}, {}
    for architecture, tars in (
        (host, [base or busybox_tar(), small_tar(which=host)]),
        (OTHER, [small_tar(which=OTHER, only="there")]),
    ):
        config = {
            "architecture": architecture,
            "os": "linux",
            "created": "2024-01-01T00:00:00Z",
            "config": {"Cmd": ["cat", "/which"], "Env": ["PATH=/bin"], "Labels": {"arch": architecture}},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]},
            "history": [
                {"created": "2024-01-01T00:00:00Z", "created_by": f"step {n} of {architecture}"} for n in range(len(tars))
            ],
        }
        layers = [put(gzip.compress(tar, 1, mtime=0), OCI_LAYER_GZIP) for tar in tars]
        described = put(json.dumps(config).encode(), OCI_CONFIG)
        manifest = put(document(OCI_MANIFEST, config=described, layers=layers), OCI_MANIFEST)
        configs[architecture], manifests[architecture] = described["digest"], manifest["digest"]
        entries.append({**manifest, "platform": {"architecture": architecture, "os": "linux"}})
    for architecture, digest in manifests.items():
        statement = {
            "_type": "https://in-toto.io/Statement/v0.1",
            "predicateType": PREDICATE,
            "subject": [{"name": architecture}],
        }
        note = {"in-toto.io/predicate-type": PREDICATE}
        layer = put(json.dumps(statement).encode(), "application/vnd.in-toto+json", annotations=note)
        config = {
            "architecture": "unknown",
            "os": "unknown",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        }
        described = put(json.dumps(config).encode(), OCI_CONFIG)
        notes = {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": digest}
        manifest = put(document(OCI_MANIFEST, config=described, layers=[layer]), OCI_MANIFEST)
        entries.append({**manifest, "annotations": notes, "platform": {"architecture": "unknown", "os": "unknown"}})
    index = put(document(OCI_INDEX, manifests=entries), OCI_INDEX)
    names = {"io.containerd.image.name": f"docker.io/library/{name}:latest", "org.opencontainers.image.ref.name": "multi"}
    top = put(document(OCI_INDEX, manifests=[index]), OCI_INDEX) if nested else index
    (path / "index.json").write_bytes(document(OCI_INDEX, manifests=[{**top, "annotations": names}]))
    return Layout(path, top["digest"], manifests, configs)
