from __future__ import annotations

import asyncio

import pytest

from berth.contract.usage import User
from berth.engine.images.service import reference_from
from berth.engine.images.view import match_reference
from berth.errors import Conflict, InvalidArgument, NotFound
from berth.model.filters import Filters
from berth.model.reference import parse
from unit.images.conftest import World
from unit.images.twins import chain_of, stream_of, tar_of

A, B, C = tar_of(a="1"), tar_of(b="22"), tar_of(c="333")


def test_an_image_is_found_by_name_id_and_prefix(world: World) -> None:
    image = asyncio.run(world.make(A, tags=("debian:trixie", "localhost:5000/x/y")))
    digits = image.id.removeprefix("sha256:")
    for name in (
        "debian:trixie",
        "docker.io/library/debian:trixie",
        "localhost:5000/x/y:latest",
        image.id,
        digits,
        digits[:5],
        image.id[:20],
    ):
        assert world.service.get(name).id == image.id
    assert image.tags == ("debian:trixie", "localhost:5000/x/y:latest")
    assert image.size == len(A)
    with pytest.raises(NotFound, match=r"^No such image: debian:latest$"):
        world.service.get("debian")
    assert world.service.find("f" * 64) is None
    with pytest.raises(InvalidArgument):
        world.service.get("UPPER case")


def test_a_name_wins_over_an_id_prefix(world: World) -> None:
    first = asyncio.run(world.make(A))
    second = asyncio.run(world.make(B, tags=(first.id[7:12],)))
    assert world.service.get(first.id[7:12]).id == second.id
    assert world.service.get(first.id[7:13]).id == first.id


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a" * 63 + "/../x",
        "x\0y",
        "sha256:" + "A" * 64,
        "sha256:" + "a" * 65,
        "/x",
        "x/",
        "x//y",
        ".x",
        "x:..",
        "x@md5:00",
    ],
)
def test_row_23_odd_names_are_refused_before_any_path_is_made(world: World, name: str) -> None:
    with pytest.raises((InvalidArgument, NotFound)):
        world.service.get(name)


def test_an_image_needs_its_layers(world: World) -> None:
    image = asyncio.run(world.make(A, B))
    with pytest.raises(InvalidArgument):
        asyncio.run(world.service.create(image.document, chain_of(A)))
    world.layers.layers.pop(chain_of(A, B))
    with pytest.raises(Conflict):
        asyncio.run(world.service.create(image.document, chain_of(A, B)))


def test_tagging_moves_the_name(world: World) -> None:
    first, second = asyncio.run(world.make(A, tags=("x:1",))), asyncio.run(world.make(B))
    world.service.tag(second, parse("x:1"))
    assert world.service.get("x:1").id == second.id
    assert world.service.get(first.id).tags == ()
    with pytest.raises(InvalidArgument):
        world.service.tag(second, parse(f"x@{first.id}"))


def test_when_an_image_was_last_named_is_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("berth.engine.images.store.time.time", lambda: 1000.5)
    plain, named = asyncio.run(world.make(A)), asyncio.run(world.make(B, tags=("x:1",)))
    assert (plain.tagged, named.tagged) == (0.0, 1000.5)
    told = [world.service.inspect(image.id).metadata for image in (plain, named)]
    assert [entry and entry.last_tag_time for entry in told] == ["0001-01-01T00:00:00Z", "1970-01-01T00:16:40.500000000Z"]
    monkeypatch.setattr("berth.engine.images.store.time.time", lambda: 2000.0)
    world.service.tag(plain, parse("x:1"))
    now = [world.service.get(image.id).tagged for image in (plain, named)]
    assert now == [2000.0, 1000.5], "the other has lost its name, not when it had got it"
    asyncio.run(world.make(A))
    assert world.service.get(plain.id).tagged == 2000.0


def test_removing_the_last_name_removes_layers_nobody_needs(world: World) -> None:
    base = asyncio.run(world.make(A, tags=("base",)))
    asyncio.run(world.make(B, tags=("top", "top:2"), parent=None))
    other = asyncio.run(world.make(A, C, tags=("other",)))
    assert [r.untagged for r in asyncio.run(world.service.remove("top"))] == ["top:latest"]
    records = asyncio.run(world.service.remove("top:2"))
    assert records[0].untagged == "top:2"
    assert world.layers.get(chain_of(B)) is None
    records = asyncio.run(world.service.remove(other.id))
    assert {r.deleted for r in records if r.deleted} == {other.id, chain_of(A, C)}
    assert world.layers.get(chain_of(A)) is not None
    assert world.service.get("base").id == base.id
    assert other.id not in world.blobs.content


def test_removal_conflicts_use_dockers_words(world: World) -> None:
    image = asyncio.run(world.make(A, tags=("x", "y")))
    short = image.id[7:19]
    with pytest.raises(
        Conflict, match=rf"^conflict: unable to delete {short} \(must be forced\) - image is referenced in multiple repositories$"
    ):
        asyncio.run(world.service.remove(image.id))
    asyncio.run(world.service.remove("y"))
    world.usage.images[image.id] = [User(id="c" * 64, name="c", running=False)]
    with pytest.raises(
        Conflict,
        match=rf"^conflict: unable to delete {short} \(must be forced\) - image is being used by stopped container cccccccccccc$",
    ):
        asyncio.run(world.service.remove(short))
    with pytest.raises(
        Conflict,
        match=r'^conflict: unable to remove repository reference "x" \(must force\) - container cccccccccccc is using',
    ):
        asyncio.run(world.service.remove("x"))
    world.usage.images[image.id] = [User(id="c" * 64, name="c", running=True)]
    with pytest.raises(
        Conflict,
        match=rf"^conflict: unable to delete {short} \(cannot be forced\) - image is being used by running container c{{12}}$",
    ):
        asyncio.run(world.service.remove(short, force=True))
    assert [r.untagged for r in asyncio.run(world.service.remove("x", force=True))] == ["x:latest"]
    assert world.service.get(image.id).tags == ()


def test_an_image_with_children_stays_and_goes_with_the_last_of_them(world: World) -> None:
    base = asyncio.run(world.make(A))
    child = asyncio.run(world.make(B, tags=("child",), parent=base))
    with pytest.raises(Conflict, match="image has dependent child images"):
        asyncio.run(world.service.remove(base.id, force=True))
    world.service.tag(base, parse("base"))
    assert [r.untagged for r in asyncio.run(world.service.remove("base", force=True))] == ["base:latest"]
    assert world.service.find(base.id) is not None
    records = asyncio.run(world.service.remove("child"))
    assert {r.deleted for r in records if r.deleted} == {child.id, base.id, chain_of(A), chain_of(A, B)}


def test_a_lease_keeps_layers(world: World) -> None:
    image = asyncio.run(world.make(A, B, tags=("x",)))
    with world.service.leases.hold(chain_of(A)):
        asyncio.run(world.service.remove("x"))
    assert world.layers.get(chain_of(A, B)) is None
    assert world.layers.get(chain_of(A)) is not None
    assert image.chain_id == chain_of(A, B)
    assert world.database.rows("SELECT * FROM leases") == []


def test_prune_takes_dangling_images_and_with_false_all_unused(world: World) -> None:
    asyncio.run(world.make(A))
    kept = asyncio.run(world.make(B, tags=("kept",), labels={"keep": "1"}))
    used = asyncio.run(world.make(C))
    world.usage.images[used.id] = [User(id="c" * 64, name="c", running=False)]
    records, freed = asyncio.run(world.service.prune(Filters()))
    assert freed == len(A)
    assert len([r for r in records if r.deleted]) == 2
    asyncio.run(world.service.prune(Filters({"dangling": ("false",), "label!": ("keep",)})))
    assert world.service.find(kept.id) is not None
    records, _ = asyncio.run(world.service.prune(Filters({"dangling": ("false",)})))
    assert [r.untagged for r in records if r.untagged] == ["kept:latest"]
    assert [image.id for image in world.service.list()] == [used.id]


def test_list_filters(world: World) -> None:
    old = asyncio.run(world.make(A, tags=("registry.example.com/team/app:1",), labels={"a": "b"}, created="2020-01-01T00:00:00Z"))
    new = asyncio.run(world.make(A, B, tags=("debian:trixie",), created="2024-01-01T00:00:00.5Z"))
    loose = asyncio.run(world.make(C, created="2022-01-01T00:00:00+02:00"))

    def ids(**filters: str) -> list[str | None]:
        return [s.id for s in world.service.summaries(Filters({k: (v,) for k, v in filters.items()}))]

    assert ids() == [new.id, loose.id, old.id]
    assert ids(dangling="true") == [loose.id]
    assert ids(dangling="false") == [new.id, old.id]
    assert ids(label="a=b") == ids(reference="registry.example.com/team/*") == ids(until="2021-01-01") == [old.id]
    assert ids(reference="*") == ids(reference="deb*:tr?xie") == ids(since=loose.id) == [new.id]
    assert ids(before="debian:trixie") == [loose.id, old.id]
    shared = {s.id: s.shared_size for s in world.service.summaries(Filters(), shared_size=True)}
    assert shared == {old.id: len(A), new.id: len(A), loose.id: 0}
    assert world.service.layers_size() == len(A) + len(B) + len(C)


def test_history_shows_sizes_and_missing_ids(world: World) -> None:
    base = asyncio.run(world.make(A, B, tags=("base",)))
    child = asyncio.run(world.make(C, tags=("child",), parent=base))
    items = world.service.history("child")
    assert [item.id for item in items] == [child.id, base.id, "<missing>"]
    assert [item.size for item in items] == [len(C), len(B), len(A)]
    assert items[0].tags == ["child:latest"]


def test_inspect_has_what_old_clients_read(world: World) -> None:
    asyncio.run(world.make(A, B, tags=("x",), labels={"k": "v"}))
    found = world.service.inspect("x")
    assert isinstance(found.config, dict) and found.container_config is not None
    assert found.config["Labels"] == {"k": "v"} and found.config["Volumes"] is None and found.container_config["Cmd"] == ["sh"]
    assert found.root_fs is not None and len(found.root_fs.layers or []) == 2
    with pytest.raises(NotFound, match="does not provide the specified platform"):
        world.service.inspect("x", '{"os": "linux", "architecture": "s390x"}')


def test_import_applies_changes(world: World) -> None:
    changes = [
        'CMD ["sh", "-c"]',
        "ENV A=1 B='x y'",
        "EXPOSE 80 53/udp",
        "LABEL k=v",
        "USER 1000:0",
        "VOLUME /a /b",
        "WORKDIR /w",
        "STOPSIGNAL SIGINT",
        "HEALTHCHECK --interval=5s --retries=2 CMD curl x",
        "ONBUILD RUN x",
        "ENTRYPOINT run it",
    ]
    image = asyncio.run(world.service.import_tar(stream_of(A), reference=parse("imported:1"), message="hello", changes=changes))
    config = image.document.config
    assert config is not None and image.tags == ("imported:1",)
    assert config.cmd == ["sh", "-c"] and config.entrypoint == ["/bin/sh", "-c", "run it"]
    assert config.env == ["A=1", "B=x y"] and config.exposed_ports == {"80/tcp": {}, "53/udp": {}}
    assert config.volumes == {"/a": {}, "/b": {}} and config.working_dir == "/w" and config.user == "1000:0"
    assert config.healthcheck is not None and config.healthcheck.interval == 5_000_000_000
    assert config.healthcheck.test == ["CMD-SHELL", "curl x"] and config.on_build == ["RUN x"]
    assert (image.document.history or [])[0].comment == "hello"


@pytest.mark.parametrize(
    "change", ["RUN x", "EXPOSE 0", "EXPOSE 70000", "ENV", "LABEL x", "HEALTHCHECK --bad=1 CMD x", "ONBUILD FROM x", 'ENV A="x']
)
def test_a_bad_change_is_refused_before_anything_is_read(world: World, change: str) -> None:
    with pytest.raises(InvalidArgument):
        asyncio.run(world.service.import_tar(stream_of(A), changes=[change]))
    assert world.layers.layers == {}


@pytest.mark.parametrize(
    ("repository", "tag", "expected"),
    [
        ("x", "", "x:latest"),
        ("x", "1", "x:1"),
        ("x:2", "1", "x:1"),
        ("localhost:5000/x", "", "localhost:5000/x:latest"),
        ("x", "sha256:" + "a" * 64, "x@sha256:" + "a" * 64),
        ("x@sha256:" + "a" * 64, "1", "x@sha256:" + "a" * 64),
    ],
)
def test_references_from_two_parameters(repository: str, tag: str, expected: str) -> None:
    assert reference_from(repository, tag).familiar == expected


def test_patterns_do_not_cross_slashes() -> None:
    assert match_reference("a/b:1", "a/*") and match_reference("a/b:1", "a/[a-c]") and match_reference("a/b:1", "*/*:1")
    assert not match_reference("a/b:1", "*") and not match_reference("a/b:1", "a/[^a-c]")
