"""Plans as text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from berth.compose import label
from berth.compose.fingerprint import config_hash, resource_hash
from berth.compose.model import Project
from berth.compose.observe import Existing, Observed
from berth.compose.plan import Wishes, plan_up, selected_services
from berth.compose.removal import Down, plan_down
from berth.errors import InvalidArgument, NotFound

TWO = """
services:
  web: {image: w, depends_on: {db: {condition: service_healthy}}, volumes: ['data:/d']}
  db: {image: d, healthcheck: {test: x}}
volumes: {data: }
"""


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


def _made(project: Project, names: Iterable[str] = (), *, state: str = "running", hashes: str = "", **values: Any) -> Observed:
    """What exists after `up`, with other configuration hashes where asked."""
    containers = []
    for name in names or project.services:
        service = project.services[name]
        containers.append(
            Existing(
                id=f"id{name}".ljust(64, "0"),
                name=f"demo-{name}-1",
                service=name,
                state=state,
                config_hash=hashes or config_hash(project, service),
                **values,
            )
        )
    mine = {label.PROJECT: "demo"}
    networks = {network.name: mine for network in project.networks.values()}
    return Observed(tuple(containers), networks, {volume.name: mine for volume in project.volumes.values()})


def test_from_nothing(files: Any) -> None:
    project = files.load(TWO)
    assert _lines(str(plan_up(project, Observed(), Wishes()))) == _lines(
        """
        create network demo_default
        create container demo-db-1  [after create network demo_default]
        start demo-db-1  [after create container demo-db-1]
        create volume demo_data
        wait for db: service_healthy  [after start demo-db-1]
        create container demo-web-1  [after create network demo_default; create volume demo_data]
        start demo-web-1  [after create container demo-web-1; wait for db: service_healthy]
        """
    )


def test_nothing_to_do(files: Any) -> None:
    project = files.load(TWO)
    plan = plan_up(project, _made(project), Wishes())
    assert _lines(str(plan)) == ["wait for db: service_healthy"] and plan.unchanged == ["demo-db-1", "demo-web-1"]


def test_what_has_stopped_is_started(files: Any) -> None:
    project = files.load(TWO)
    assert _lines(str(plan_up(project, _made(project, state="exited"), Wishes()))) == [
        "start demo-db-1",
        "wait for db: service_healthy  [after start demo-db-1]",
        "start demo-web-1  [after wait for db: service_healthy]",
    ]


def test_only_what_changed_is_replaced(files: Any) -> None:
    project = files.load(TWO)
    observed = _made(project)
    changed = files.load(TWO.replace("image: w", "image: w, user: u"))
    assert _lines(str(plan_up(changed, observed, Wishes()))) == _lines(
        """
        wait for db: service_healthy
        create container idweb0000000_demo-web-1
        stop demo-web-1  [after create container idweb0000000_demo-web-1; wait for db: service_healthy]
        remove container demo-web-1  [after stop demo-web-1]
        rename idweb0000000_demo-web-1 to demo-web-1  [after remove container demo-web-1]
        start demo-web-1  [after rename idweb0000000_demo-web-1 to demo-web-1; wait for db: service_healthy]
        """
    )


@pytest.mark.parametrize(
    ("change", "replaced"),
    [
        ("scale: 1", False),
        ("depends_on: [b]", False),
        ("profiles: [x]", False),
        ("pull_policy: always", False),
        ("environment: {A: 1}", True),
        ("deploy: {resources: {limits: {memory: 1m}}}", True),
        ("deploy: {replicas: 1, update_config: {parallelism: 2}}", False),
        ("labels: {a: b}", True),
    ],
)
def test_what_counts_as_a_change(files: Any, change: str, replaced: bool) -> None:
    old = files.load("services:\n  a: {image: x}\n  b: {image: x}\n")
    new = files.load(f"services:\n  a: {{image: x, {change}}}\n  b: {{image: x}}\n", profiles=("x",))
    assert (config_hash(old, old.services["a"]) != config_hash(new, new.services["a"])) is replaced


def test_a_new_image_replaces(files: Any) -> None:
    project = files.load("services: {a: {image: x}}\n")
    observed = _made(project, image_id="sha256:old")
    assert plan_up(project, observed, Wishes(images={"a": "sha256:old"})).operations == []
    assert "remove container demo-a-1" in str(plan_up(project, observed, Wishes(images={"a": "sha256:new"})))


def test_force_and_no_recreate(files: Any) -> None:
    project = files.load(TWO)
    forced = str(plan_up(project, _made(project), Wishes(services=("web",), force_recreate=True)))
    assert "remove container demo-web-1" in forced and "remove container demo-db-1" not in forced
    stale = _made(project, hashes="0")
    assert "remove" not in str(plan_up(project, stale, Wishes(no_recreate=True)))
    with pytest.raises(InvalidArgument, match="incompatible"):
        plan_up(project, stale, Wishes(no_recreate=True, force_recreate=True))


def test_scaling_up_and_down(files: Any) -> None:
    project = files.load("services: {a: {image: x}}\n")
    up = plan_up(project, _made(project), Wishes(scale={"a": 3}))
    assert [line for line in _lines(str(up)) if line.startswith("create")] == [
        "create container demo-a-2",
        "create container demo-a-3",
    ]
    down = plan_up(project, _made(project), Wishes(scale={"a": 0}))
    assert _lines(str(down)) == ["stop demo-a-1", "remove container demo-a-1  [after stop demo-a-1]"]


def test_those_who_join_a_replaced_container_are_replaced(files: Any) -> None:
    text = "services:\n  a: {image: x}\n  b: {image: x, network_mode: 'service:a'}\n"
    text += "  c: {image: x, depends_on: {a: {condition: service_started, restart: true}}}\n"
    project = files.load(text)
    observed = _made(project)
    changed = files.load(text.replace("a: {image: x}", "a: {image: y}"))
    plan = _lines(str(plan_up(changed, observed, Wishes())))
    assert any(line.startswith("remove container demo-b-1") for line in plan)
    assert "restart demo-c-1  [after start demo-a-1]" in plan
    creation = next(line for line in plan if line.startswith("create container idb"))
    assert creation.endswith("[after rename ida000000000_demo-a-1 to demo-a-1]")


def test_anonymous_volumes_are_inherited_unless_renewed(files: Any) -> None:
    project = files.load("services: {a: {image: x, volumes: [/v]}}\n")
    observed = _made(project, hashes="0", anonymous={"/v": "f" * 64, "/from-image": "e" * 64})

    def sources(wishes: Wishes) -> list[tuple[str | None, str | None]]:
        from berth.compose.operation import CreateContainer

        creation = next(o.action for o in plan_up(project, observed, wishes).operations if isinstance(o.action, CreateContainer))
        host = creation.blueprint.body.host_config
        assert host is not None
        return [(mount.target, mount.source) for mount in host.mounts or []]

    assert sources(Wishes()) == [("/v", "f" * 64), ("/from-image", "e" * 64)]
    assert sources(Wishes(renew_anonymous=True)) == [("/v", None)]


def test_orphans_are_named_or_removed(files: Any) -> None:
    project = files.load("services: {a: {image: x}}\n")
    orphan = Existing(id="o", name="demo-gone-1", service="gone")
    observed = Observed((*_made(project).containers, orphan), {"demo_default": {label.PROJECT: "demo"}})
    plan = plan_up(project, observed, Wishes())
    assert plan.operations == [] and "[demo-gone-1]" in plan.notices[0]
    assert _lines(str(plan_up(project, observed, Wishes(remove_orphans=True)))) == [
        "stop demo-gone-1",
        "remove container demo-gone-1  [after stop demo-gone-1]",
    ]


def test_several_networks_and_uploads_come_before_the_start(files: Any) -> None:
    project = files.load(
        "services: {a: {image: x, networks: [n, m], configs: [c]}}\nnetworks: {n: , m: }\nconfigs: {c: {content: x}}\n"
    )
    assert _lines(str(plan_up(project, Observed(), Wishes())))[2:] == _lines(
        """
        create container demo-a-1  [after create network demo_n; create network demo_m]
        connect demo-a-1 to demo_m  [after create container demo-a-1]
        copy /c into demo-a-1  [after create container demo-a-1]
        start demo-a-1  [after create container demo-a-1; connect demo-a-1 to demo_m; copy /c into demo-a-1]
        """
    )


def test_hooks_run_around(files: Any) -> None:
    project = files.load("services: {a: {image: x, post_start: [{command: after}], pre_stop: [{command: before}]}}\n")
    assert _lines(str(plan_up(project, Observed(), Wishes())))[-1] == "run post_start in demo-a-1: after  [after start demo-a-1]"
    down = _lines(str(plan_down(project, Down(_made(project).containers, {}))))
    assert down[:2] == ["run pre_stop in demo-a-1: before", "stop demo-a-1  [after run pre_stop in demo-a-1: before]"]


def test_external_things_have_to_be_there(files: Any) -> None:
    network = files.load("services: {a: {image: x, networks: [e]}}\nnetworks: {e: {external: true}}\n")
    with pytest.raises(NotFound, match="network e declared as external, but could not be found"):
        plan_up(network, Observed(), Wishes())
    volume = files.load("services: {a: {image: x, volumes: ['v:/v']}}\nvolumes: {v: {external: true}}\n")
    with pytest.raises(NotFound, match='external volume "v" not found'):
        plan_up(volume, Observed(networks={"demo_default": {}}), Wishes())


def test_dependencies_come_along_unless_not_wanted(files: Any) -> None:
    project = files.load(TWO)
    assert selected_services(project, ("web",)) == ["db", "web"]
    assert selected_services(project, ("web",), dependencies=False) == ["web"]
    with pytest.raises(NotFound, match="no such service: no"):
        selected_services(project, ("no",))


def test_down_takes_dependants_first(files: Any) -> None:
    project = files.load(TWO)
    found = _made(project).containers
    assert _lines(str(plan_down(project, Down(found, {"demo_default": "n"}, ("demo_data",), ("w",))))) == _lines(
        """
        stop demo-web-1
        stop demo-db-1  [after stop demo-web-1]
        remove container demo-web-1  [after stop demo-web-1]
        remove container demo-db-1  [after stop demo-db-1]
        remove network demo_default  [after remove container demo-web-1; remove container demo-db-1]
        remove volume demo_data  [after remove container demo-web-1; remove container demo-db-1]
        remove image w  [after remove container demo-web-1; remove container demo-db-1]
        """
    )


def test_down_without_files_goes_by_the_labels() -> None:
    web = Existing(id="w", name="demo-web-1", service="web", labels={label.DEPENDS_ON: "db:service_started:false"})
    db = Existing(id="d", name="demo-db-1", service="db")
    plan = _lines(str(plan_down(None, Down((db, web), {}))))
    assert plan[:2] == ["stop demo-web-1", "stop demo-db-1  [after stop demo-web-1]"]


def test_labels_are_those_of_docker_compose(files: Any) -> None:
    project = files.load(TWO)
    labels = label.container_labels(
        project, project.services["web"], number=2, config_hash="h", image_id="sha256:x", oneoff=False
    )
    assert labels == {
        "com.docker.compose.project": "demo",
        "com.docker.compose.service": "web",
        "com.docker.compose.container-number": "2",
        "com.docker.compose.oneoff": "False",
        "com.docker.compose.config-hash": "h",
        "com.docker.compose.project.working_dir": str(files.folder),
        "com.docker.compose.project.config_files": f"{files.folder}/c0.yaml",
        "com.docker.compose.version": label.COMPOSE_VERSION,
        "com.docker.compose.depends_on": "db:service_healthy:false",
        "com.docker.compose.image": "sha256:x",
    }


def test_networks_and_volumes_that_changed_are_told(files: Any) -> None:
    project = files.load("services: {a: {image: x, volumes: ['v:/v'], networks: [n, m]}}\nvolumes: {v: }\nnetworks: {n: , m: }\n")
    other = {label.PROJECT: "demo", label.CONFIG_HASH: "0"}
    same = {label.PROJECT: "demo", label.CONFIG_HASH: resource_hash(project.networks["m"])}
    plan = plan_up(project, Observed((), {"demo_n": other, "demo_m": same}, {"demo_v": {}}), Wishes())
    assert [notice.split(":")[0] for notice in plan.notices] == [
        "Network demo_n exists with other settings than the files have",
        "Volume demo_v exists and was not created for this project",
    ]
