"""What a stage has built so far: an image in the making. A value; each step gives the next one."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace

import msgspec

from berth.contract.image import Image
from berth.contract.store import Layer
from berth.model.digest import Digest, digest_of
from berth.wire.container import ContainerConfig
from berth.wire.document import History, ImageDocument, RootFS

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHELL = ("/bin/sh", "-c")


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """`chain_id` is that of the top layer, None without layers; `base` the id of the image that the first stage began with.
    Configurations are not changed in place."""

    config: ContainerConfig
    architecture: str
    os: str = "linux"
    variant: str | None = None
    chain_id: Digest | None = None
    diff_ids: tuple[Digest, ...] = ()
    history: tuple[History, ...] = ()
    author: str | None = None
    created: str | None = None
    base: Digest | None = None

    @property
    def shell(self) -> tuple[str, ...]:
        """What shell forms are run by."""
        return tuple(self.config.shell or DEFAULT_SHELL)

    def step(
        self, config: ContainerConfig, layer: Layer | None, created_by: str, created: str, author: str | None = None
    ) -> State:
        """The state after a step, which added a layer or only changed the configuration."""
        author = author or self.author
        entry = History(created=created, created_by=created_by, author=author, empty_layer=layer is None)
        return replace(
            self,
            config=config,
            chain_id=layer.chain_id if layer is not None else self.chain_id,
            diff_ids=(*self.diff_ids, layer.diff_id) if layer is not None else self.diff_ids,
            history=(*self.history, entry),
            author=author,
            created=created,
        )

    def document(self) -> ImageDocument:
        """The configuration of the image that this is."""
        return ImageDocument(
            architecture=self.architecture,
            os=self.os,
            variant=self.variant,
            created=self.created,
            author=self.author,
            config=self.config,
            rootfs=RootFS(diff_ids=list(self.diff_ids)),
            history=list(self.history),
        )

    def digest(self) -> Digest:
        """A name for the state in messages; that of the image when the stage ends here."""
        return digest_of(msgspec.json.encode(self.document()))


def from_image(image: Image) -> State:
    """Begin with an image. Its ONBUILD triggers are the caller's business."""
    document = image.document
    config = msgspec.structs.replace(document.config) if document.config is not None else ContainerConfig()
    return State(
        config=_with_path(config),
        architecture=document.architecture,
        os=document.os,
        variant=document.variant,
        chain_id=image.chain_id,
        diff_ids=tuple(document.rootfs.diff_ids),
        history=tuple(document.history or ()),
        author=document.author,
        created=document.created,
        base=image.id,
    )


def from_scratch(architecture: str) -> State:
    """Begin with nothing."""
    return State(config=_with_path(ContainerConfig()), architecture=architecture)


def _with_path(config: ContainerConfig) -> ContainerConfig:
    env = list(config.env or ())
    if not any(entry.startswith("PATH=") for entry in env):
        env.append(f"PATH={DEFAULT_PATH}")
    return msgspec.structs.replace(config, env=env)


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC, as Docker writes it."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
