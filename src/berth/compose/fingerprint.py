"""The configuration hash of a service: when it differs from a container's label, the container has to be replaced."""

from __future__ import annotations

import hashlib

import msgspec

from berth.compose.convert.mount import file_content
from berth.compose.model import Network, Project, Service, Volume, plain

# What can change without the container having to: how many there are, how the image comes about, who waits for whom.
_INDIFFERENT = (
    "attach",
    "build",
    "depends_on",
    "develop",
    "profiles",
    "pull_policy",
    "pull_refresh_after",
    "scale",
    "post_start",
    "pre_stop",
)


def resource_hash(resource: Network | Volume) -> str:
    """64 hex digits over the settings of a network or volume, kept as a label on it."""
    return hashlib.sha256(msgspec.json.encode(plain(resource), order="deterministic")).hexdigest()


def config_hash(project: Project, service: Service) -> str:
    """64 hex digits over everything of a service that a container is made of, with the content of its secrets and configs."""
    content = {key: value for key, value in plain(service).items() if key not in _INDIFFERENT}
    deploy = {key: value for key, value in content.pop("deploy", {}).items() if key in ("resources", "restart_policy")}
    content["deploy"] = deploy
    content["image"] = project.image_name(service)
    content["networks"] = {project.networks[key].name: value for key, value in content.get("networks", {}).items()}
    content["volume_names"] = [project.volumes[m.source].name for m in service.volumes if m.type == "volume" and m.source]
    digest = hashlib.sha256(msgspec.json.encode(content, order="deterministic"))
    for references, sources in ((service.secrets, project.secrets), (service.configs, project.configs)):
        for reference in references:
            source = sources[reference.source]
            # A file that is mounted shows its changes without a new container.
            uploaded = source.file is None or reference.mode is not None or reference.uid is not None or reference.gid is not None
            digest.update(hashlib.sha256(file_content(source, project)).digest() if uploaded else (source.file or "").encode())
    return digest.hexdigest()
