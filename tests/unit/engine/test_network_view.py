"""NetworkSettings are kept until something that they were made of is another one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from berth.contract.network import ContainerFacts
from berth.engine.network_catalog import NetworkCatalog
from berth.engine.network_view import NetworkView
from berth.network.ipam import complete_pool
from berth.network.record import BRIDGE, Endpoint, Live, NetworkRecord, Published
from berth.storage.database import Database
from berth.wire.container import ContainerConfig, HostConfig
from berth.wire.network import EndpointSettings


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[NetworkCatalog]:
    database = Database(str(tmp_path / "db"))
    made = NetworkCatalog(database)
    _network(made, BRIDGE, "10.1.0.0/24")
    yield made
    database.close()


def _network(catalog: NetworkCatalog, name: str, subnet: str) -> NetworkRecord:
    pool = complete_pool(subnet, "", "", {}, with_gateway=True)
    record = NetworkRecord(id=name * 3, name=name, created=1.0, pools=(pool,), device=name)
    catalog.store(record)
    catalog.admit(record)
    return record


def _facts(*, mode: str = BRIDGE) -> ContainerFacts:
    host = HostConfig(network_mode=mode)
    return ContainerFacts(id="one", name="one", config=ContainerConfig(), host_config=host, endpoints={mode: EndpointSettings()})


def _endpoint(network: NetworkRecord, address: str) -> Endpoint:
    live = Live(name="one", mac="02:00:00:00:00:01", ipv4=address)
    return Endpoint(id="e", container_id="one", network_id=network.id, live=live)


def test_what_has_not_changed_is_not_made_again(catalog: NetworkCatalog) -> None:
    view, facts = NetworkView(catalog), _facts()
    first = view.settings(facts)
    assert view.settings(structs.replace(facts)) is first
    view.forget("one")
    assert view.settings(facts) is not first


def test_every_change_is_seen(catalog: NetworkCatalog) -> None:
    view, facts = NetworkView(catalog), _facts()
    bridge = catalog.find(BRIDGE)

    def address() -> str | None:
        endpoint = (view.settings(facts).networks or {})[BRIDGE]
        return endpoint.ip_address

    assert address() == ""
    catalog.put_endpoints([_endpoint(bridge, "10.1.0.2")])
    assert address() == "10.1.0.2"
    catalog.put_endpoints([_endpoint(bridge, "10.1.0.3")])
    assert address() == "10.1.0.3"
    port = Published(protocol="tcp", address="0.0.0.0", port=80, target="10.1.0.3", target_port=8080, network_id=bridge.id)
    catalog.put_ports("one", [port])
    assert list(view.settings(facts).ports or {}) == ["8080/tcp"]
    catalog.drop_ports("one")
    assert view.settings(facts).ports == {}
    catalog.change(structs.replace(bridge, pools=(complete_pool("10.1.0.0/25", "", "", {}, with_gateway=True),)))
    assert (view.settings(facts).networks or {})[BRIDGE].ip_prefix_len == 25
    catalog.drop_endpoints("one", [bridge.id])
    assert address() == ""


def test_a_network_that_is_made_anew_under_its_name(catalog: NetworkCatalog) -> None:
    view, facts = NetworkView(catalog), _facts(mode="back")
    record = _network(catalog, "back", "10.2.0.0/24")
    assert (view.settings(facts).networks or {})["back"].network_id == record.id
    catalog.erase(record)
    assert (view.settings(facts).networks or {})["back"].network_id is None
    again = structs.replace(record, id="another")
    catalog.store(again)
    catalog.admit(again)
    assert (view.settings(facts).networks or {})["back"].network_id == "another"
