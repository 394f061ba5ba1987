"""The labels by which Compose knows its own: the same as Docker's Compose 1 and 2 write, so that each can see what the other
has started."""

from __future__ import annotations

from collections.abc import Mapping

from berth.compose.model import Project, Service

PREFIX = "com.docker.compose."
PROJECT = PREFIX + "project"
SERVICE = PREFIX + "service"
NUMBER = PREFIX + "container-number"
ONEOFF = PREFIX + "oneoff"
CONFIG_HASH = PREFIX + "config-hash"
IMAGE = PREFIX + "image"
DEPENDS_ON = PREFIX + "depends_on"
WORKING_DIR = PREFIX + "project.working_dir"
CONFIG_FILES = PREFIX + "project.config_files"
VERSION = PREFIX + "version"
NETWORK = PREFIX + "network"
VOLUME = PREFIX + "volume"
REPLACES = PREFIX + "replace"
COMPOSE_VERSION = "2.40.0"


def container_labels(
    project: Project, service: Service, *, number: int, config_hash: str, image_id: str | None, oneoff: bool
) -> dict[str, str]:
    """The service's own labels, and ours."""
    depends = ",".join(f"{name}:{d.condition}:{str(d.restart).lower()}" for name, d in service.depends_on.items())
    return {
        **service.labels,
        PROJECT: project.name,
        SERVICE: service.name,
        NUMBER: str(number),
        ONEOFF: "True" if oneoff else "False",
        CONFIG_HASH: config_hash,
        WORKING_DIR: project.working_dir,
        CONFIG_FILES: ",".join(project.files),
        VERSION: COMPOSE_VERSION,
        DEPENDS_ON: depends,
        **({IMAGE: image_id} if image_id else {}),
    }


def resource_labels(project: Project, kind: str, key: str, labels: Mapping[str, str], config_hash: str) -> dict[str, str]:
    """Labels of a network or volume; `kind` is NETWORK or VOLUME."""
    return {**labels, PROJECT: project.name, kind: key, CONFIG_HASH: config_hash, VERSION: COMPOSE_VERSION}


def project_filter(project: str, *, oneoff: bool | None = False) -> dict[str, list[str]]:
    """The filter for a project's containers; `oneoff` None takes those of `run` too."""
    labels = [f"{PROJECT}={project}"]
    if oneoff is not None:
        labels.append(f"{ONEOFF}={oneoff}")
    return {"label": labels}
