"""`--cache-from`: the images that steps may be taken from, and no others.

    image   history  FROM..  RUN a  ENV b  COPY c         diff ids  1  2     3
    state   history  FROM..  RUN a          ── next ──> ENV b, if the layers so far are the image's first ones

As with Docker's classic builder, a step counts as cached when an image has the same steps up to it, on the same layers: also
of an image that was pulled, whose steps were never made here. Names that no image has are passed over.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from berth.build.state import State
from berth.contract.image import Image, Images
from berth.contract.store import Layer, Layers
from berth.errors import NotFound
from berth.model.digest import chain_id


@dataclass(frozen=True, slots=True)
class Found:
    """A step in an image: its layer, None when it added none, and its time."""

    layer: Layer | None
    created: str


class CacheSources:
    """The images of one build."""

    def __init__(self, images: Images, layers: Layers, names: Iterable[str]) -> None:
        self._layers = layers
        self._images = [image for name in names if (image := _image(images, name)) is not None]

    def allow(self, state: State) -> bool:
        """Whether an image has gone the same way up to this state."""
        return any(_begins_with(image, state) for image in self._images)

    def find(self, state: State, created_by: str) -> Found | None:
        """The step after `state` that an image has under this line of history."""
        for image in self._images:
            history, done = image.document.history or [], len(state.history)
            if len(history) <= done or history[done].created_by != created_by or not _begins_with(image, state):
                continue
            step = history[done]
            layer = None
            if not step.empty_layer:
                layer = self._layers.get(chain_id(tuple(image.document.rootfs.diff_ids[: len(state.diff_ids) + 1])))
            if step.empty_layer or layer is not None:
                return Found(layer, step.created or "")
        return None


def _image(images: Images, name: str) -> Image | None:
    try:
        return images.find(name)
    except NotFound:
        return None


def _begins_with(image: Image, state: State) -> bool:
    document = image.document
    steps = [step.created_by for step in (document.history or [])[: len(state.history)]]
    layers = tuple(document.rootfs.diff_ids[: len(state.diff_ids)])
    return layers == state.diff_ids and steps == [step.created_by for step in state.history]
