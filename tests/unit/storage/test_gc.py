"""What may go: a pure function, checked against a plain definition of reachability."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from berth.model.digest import Digest
from berth.storage.gc import Garbage, Inventory, unreachable


def d(name: str) -> Digest:
    return Digest(name)


def test_an_image_keeps_its_stack_and_its_blobs() -> None:
    inventory = Inventory(
        layers={d("base"): (None, d("base.gz")), d("top"): (d("base"), None), d("old"): (d("base"), d("old.gz"))},
        blobs=frozenset(map(d, ("config", "base.gz", "old.gz", "index", "manifest", "junk"))),
        wanted=frozenset(map(d, ("config", "top", "index"))),
        edges={d("index"): (d("manifest"),)},
    )
    assert unreachable(inventory) == Garbage((d("old"),), (d("junk"), d("old.gz")))


def test_layers_come_before_their_parents() -> None:
    layers = {d("a"): (None, None), d("b"): (d("a"), None), d("c"): (d("b"), None), d("x"): (d("a"), None)}
    found = unreachable(Inventory(layers=layers)).layers
    assert set(found) == set(layers)
    assert found.index(d("c")) < found.index(d("b")) < found.index(d("a")) > found.index(d("x"))


def test_a_loop_in_damaged_rows_ends() -> None:
    layers = {d("a"): (d("b"), None), d("b"): (d("a"), None)}
    assert set(unreachable(Inventory(layers=layers)).layers) == {d("a"), d("b")}
    assert unreachable(Inventory(layers=layers, wanted=frozenset([d("a")]))) == Garbage()


digests = st.sampled_from([d(c) for c in "abcdefgh"])


@given(
    st.dictionaries(digests, st.tuples(st.none() | digests, st.none() | digests)),
    st.frozensets(digests),
    st.frozensets(digests),
    st.dictionaries(digests, st.lists(digests, max_size=3).map(tuple)),
)
def test_exactly_what_nothing_leads_to(
    layers: dict[Digest, tuple[Digest | None, Digest | None]],
    blobs: frozenset[Digest],
    wanted: frozenset[Digest],
    edges: dict[Digest, tuple[Digest, ...]],
) -> None:
    reached = set(wanted)
    while True:
        more = {x for digest in reached for x in (*(layers.get(digest) or ()), *edges.get(digest, ())) if x is not None}
        if more <= reached:
            break
        reached |= more
    garbage = unreachable(Inventory(layers, blobs, wanted, edges))
    assert set(garbage.layers) == set(layers) - reached
    assert set(garbage.blobs) == blobs - reached
