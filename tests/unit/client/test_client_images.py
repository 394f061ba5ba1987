"""An inspected image is decoded as the engine writes it."""

from __future__ import annotations

import msgspec

from berth.contract.image import Image
from berth.engine.images.view import inspect
from berth.model.digest import Digest
from berth.wire.container import ContainerConfig
from berth.wire.document import ImageDocument
from berth.wire.image import ImageInspect


def test_what_the_engine_writes_can_be_read() -> None:
    document = ImageDocument(architecture="amd64", os="linux", config=ContainerConfig(cmd=["sh"], labels={"a": "b"}))
    image = Image(id=Digest("sha256:" + "a" * 64), document=document, chain_id=None, size=7, created=0.0)
    read = msgspec.json.decode(msgspec.json.encode(inspect(image, "/root", ())), type=ImageInspect)
    assert read.id == image.id and read.size == 7 and (read.os, read.architecture) == ("linux", "amd64")
    assert read.config is not None and read.config["Cmd"] == ["sh"] and read.config["Labels"] == {"a": "b"}
