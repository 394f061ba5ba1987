"""Attributes of services, from the file to what the engine is asked for. One test per group."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from berth.compose.convert.container import Place, convert_container


def _body(files: Any, body: str, *, extra: str = "", environ: dict[str, str] | None = None) -> dict[str, Any]:
    """The request's JSON for a service `app`."""
    lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
    project = files.load(f"services:\n  app:\n    image: busybox\n{lines}{extra}", environ=environ)
    blueprint = convert_container(project, project.services["app"], Place("demo-app-1", "busybox", {}))
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(blueprint.body))
    return found


def test_process(files: Any) -> None:
    body = _body(
        files,
        "command: sh -c 'echo \"a b\"'\nentrypoint: [tini, --]\nuser: 1:2\nworking_dir: /w\nhostname: h\ndomainname: d\n"
        "tty: true\n"
        "stdin_open: true\nstop_signal: SIGUSR1\nstop_grace_period: 1m30s\ninit: true\nenvironment: {A: 1, B: 'x=y', C: true}",
    )
    assert body["Cmd"] == ["sh", "-c", 'echo "a b"'] and body["Entrypoint"] == ["tini", "--"]
    assert (body["User"], body["WorkingDir"], body["Hostname"], body["Domainname"]) == ("1:2", "/w", "h", "d")
    assert (body["Tty"], body["OpenStdin"], body["StopSignal"], body["StopTimeout"]) == (True, True, "SIGUSR1", 90)
    assert body["Env"] == ["A=1", "B=x=y", "C=true"] and body["HostConfig"]["Init"] is True


@pytest.mark.parametrize(
    ("port", "key", "bindings"),
    [
        ('"80"', "80/tcp", [{"HostIp": "", "HostPort": ""}]),
        ('"8080:80"', "80/tcp", [{"HostIp": "", "HostPort": "8080"}]),
        ('"127.0.0.1:8080:80/udp"', "80/udp", [{"HostIp": "127.0.0.1", "HostPort": "8080"}]),
        ('"127.0.0.1::80"', "80/tcp", [{"HostIp": "127.0.0.1", "HostPort": ""}]),
        ('"[::1]:8080:80"', "80/tcp", [{"HostIp": "::1", "HostPort": "8080"}]),
        ('"8000-8010:80"', "80/tcp", [{"HostIp": "", "HostPort": "8000-8010"}]),
        ("{target: 80, published: 9, host_ip: 10.0.0.1, protocol: udp}", "80/udp", [{"HostIp": "10.0.0.1", "HostPort": "9"}]),
        ("53:53", "53/tcp", [{"HostIp": "", "HostPort": "53"}]),
    ],
)
def test_ports(files: Any, port: str, key: str, bindings: list[dict[str, str]]) -> None:
    body = _body(files, f"ports: [{port}]" if not port.startswith("53") else f"ports:\n  - {port}")
    assert body["HostConfig"]["PortBindings"] == {key: bindings}
    assert body["ExposedPorts"] == {key: {}}


def test_port_ranges_and_expose(files: Any) -> None:
    body = _body(files, 'ports: ["9000-9001:90-91"]\nexpose: [1, "2/udp", "5-6"]')
    assert body["HostConfig"]["PortBindings"] == {
        "90/tcp": [{"HostIp": "", "HostPort": "9000"}],
        "91/tcp": [{"HostIp": "", "HostPort": "9001"}],
    }
    assert sorted(body["ExposedPorts"]) == ["1/tcp", "2/udp", "5/tcp", "6/tcp", "90/tcp", "91/tcp"]


def test_mounts(files: Any) -> None:
    body = _body(
        files,
        "volumes:\n- ./src:/src:ro\n- ~/x:/home\n- data:/data:nocopy\n- /anonymous\n"
        "- {type: bind, source: /b, target: /b, bind: {create_host_path: false, propagation: rslave}}\n"
        "- {type: volume, source: data, target: /sub, volume: {subpath: a/b}}\n"
        "- {type: tmpfs, target: /t, tmpfs: {size: 1m, mode: 0700}}\n"
        "tmpfs: [/tmp, '/run:size=1m']",
        extra="volumes: {data: }\n",
    )["HostConfig"]
    import os

    assert body["Binds"] == [f"{files.folder}/src:/src:ro", f"{os.path.expanduser('~')}/x:/home:rw"]
    assert body["Mounts"] == [
        {"Type": "volume", "Source": "demo_data", "Target": "/data", "VolumeOptions": {"NoCopy": True}},
        {"Type": "volume", "Target": "/anonymous"},
        {"Type": "bind", "Source": "/b", "Target": "/b", "BindOptions": {"Propagation": "rslave"}},
        {"Type": "volume", "Source": "demo_data", "Target": "/sub", "VolumeOptions": {"Subpath": "a/b"}},
        {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1048576, "Mode": 0o700}},
    ]
    assert body["Tmpfs"] == {"/tmp": "", "/run": "size=1m"}


def test_networks(files: Any) -> None:
    body = _body(
        files,
        "networks: {n: {aliases: [w], ipv4_address: 10.1.0.9, mac_address: '02:00:00:00:00:01'}}",
        extra="networks: {n: {ipam: {config: [{subnet: 10.1.0.0/24}]}}}\n",
    )
    assert body["HostConfig"]["NetworkMode"] == "demo_n"
    assert body["NetworkingConfig"]["EndpointsConfig"] == {
        "demo_n": {
            "Aliases": ["demo-app-1", "app", "w"],
            "IPAMConfig": {"IPv4Address": "10.1.0.9"},
            "MacAddress": "02:00:00:00:00:01",
        }
    }


@pytest.mark.parametrize("mode", ["host", "none", "container:x", "bridge"])
def test_network_modes(files: Any, mode: str) -> None:
    body = _body(files, f"network_mode: {mode}")
    assert body["HostConfig"]["NetworkMode"] == mode and "NetworkingConfig" not in body


def test_health(files: Any) -> None:
    text = "healthcheck: {test: curl x, interval: 1m, timeout: 1.5s, retries: 2, start_period: 10s, start_interval: 500ms}"
    assert _body(files, text)["Healthcheck"] == {
        "Test": ["CMD-SHELL", "curl x"],
        "Interval": 60_000_000_000,
        "Timeout": 1_500_000_000,
        "Retries": 2,
        "StartPeriod": 10_000_000_000,
        "StartInterval": 500_000_000,
    }
    assert _body(files, "healthcheck: {disable: true}")["Healthcheck"] == {"Test": ["NONE"]}
    assert _body(files, "healthcheck: {test: [NONE]}")["Healthcheck"] == {"Test": ["NONE"]}


def test_limits(files: Any) -> None:
    host = _body(
        files,
        "mem_limit: 64m\nmem_reservation: 32m\nmemswap_limit: -1\ncpus: 0.5\ncpu_shares: 512\ncpu_quota: 50000\n"
        "cpu_period: 100ms\n"
        "cpuset: 0,1\npids_limit: 99\nshm_size: 1gb\noom_score_adj: 100\nulimits: {nofile: {soft: 1, hard: 2}, nproc: 3}\n"
        "blkio_config: {weight: 300, device_read_bps: [{path: /dev/sda, rate: 1mb}]}",
    )["HostConfig"]
    assert (host["Memory"], host["MemoryReservation"], host["MemorySwap"]) == (67108864, 33554432, -1)
    assert (host["NanoCpus"], host["CpuShares"], host["CpuQuota"], host["CpuPeriod"]) == (500_000_000, 512, 50000, 100000)
    assert (host["CpusetCpus"], host["PidsLimit"], host["ShmSize"], host["OomScoreAdj"]) == ("0,1", 99, 1 << 30, 100)
    assert host["Ulimits"] == [{"Name": "nofile", "Soft": 1, "Hard": 2}, {"Name": "nproc", "Soft": 3, "Hard": 3}]
    assert host["BlkioWeight"] == 300 and host["BlkioDeviceReadBps"] == [{"Path": "/dev/sda", "Rate": 1048576}]


def test_deploy(files: Any) -> None:
    host = _body(
        files,
        "deploy:\n  resources: {limits: {cpus: '0.25', memory: 10M, pids: 5}, reservations: {memory: 5M}}\n"
        "  restart_policy: {condition: on-failure, max_attempts: 3}",
    )["HostConfig"]
    assert (host["NanoCpus"], host["Memory"], host["MemoryReservation"], host["PidsLimit"]) == (250_000_000, 10485760, 5242880, 5)
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ('"no"', {"Name": "no", "MaximumRetryCount": 0}),
        ("always", {"Name": "always", "MaximumRetryCount": 0}),
        ("on-failure:5", {"Name": "on-failure", "MaximumRetryCount": 5}),
        ("unless-stopped", {"Name": "unless-stopped", "MaximumRetryCount": 0}),
    ],
)
def test_restart(files: Any, text: str, policy: dict[str, Any]) -> None:
    assert _body(files, f"restart: {text}")["HostConfig"]["RestartPolicy"] == policy


def test_isolation_and_rights(files: Any) -> None:
    host = _body(
        files,
        "privileged: true\nread_only: true\ncap_add: [NET_ADMIN]\ncap_drop: [ALL]\nsecurity_opt: ['no-new-privileges:true']\n"
        "pid: host\nipc: shareable\nuts: host\nuserns_mode: host\ncgroup: private\ncgroup_parent: /p\ngroup_add: [5, video]\n"
        "sysctls: {net.core.somaxconn: 1}\ndevices: ['/dev/null:/dev/x:r', /dev/zero]\ndevice_cgroup_rules: ['c 1:3 mr']\n"
        "runtime: runc\nstorage_opt: {size: 1G}\nannotations: {a: b}",
    )["HostConfig"]
    assert (host["Privileged"], host["ReadonlyRootfs"], host["CapAdd"], host["CapDrop"]) == (True, True, ["NET_ADMIN"], ["ALL"])
    assert (host["PidMode"], host["IpcMode"], host["UTSMode"], host["UsernsMode"]) == ("host", "shareable", "host", "host")
    assert (host["CgroupnsMode"], host["CgroupParent"], host["GroupAdd"]) == ("private", "/p", ["5", "video"])
    assert host["Sysctls"] == {"net.core.somaxconn": "1"} and host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Devices"] == [
        {"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "r"},
        {"PathOnHost": "/dev/zero", "PathInContainer": "/dev/zero", "CgroupPermissions": "rwm"},
    ]
    assert (host["Runtime"], host["StorageOpt"], host["Annotations"]) == ("runc", {"size": "1G"}, {"a": "b"})


def test_names_and_logs(files: Any) -> None:
    host = _body(
        files,
        "extra_hosts: ['a=1.2.3.4', 'b:5.6.7.8', 'six=::1']\ndns: 9.9.9.9\ndns_search: [x.example]\ndns_opt: [ndots:1]\n"
        "logging: {driver: local, options: {max-size: 1m}}",
    )["HostConfig"]
    assert host["ExtraHosts"] == ["a:1.2.3.4", "b:5.6.7.8", "six:::1"]
    assert (host["Dns"], host["DnsSearch"], host["DnsOptions"]) == (["9.9.9.9"], ["x.example"], ["ndots:1"])
    assert host["LogConfig"] == {"Type": "local", "Config": {"max-size": "1m"}}


def test_secrets_and_configs(files: Any) -> None:
    files.write("s.txt", "secret")
    project = files.load(
        "services:\n  app:\n    image: x\n    secrets: [f, {source: e, target: /e, mode: 0400, uid: '5'}]\n"
        "    configs: [{source: c, target: /etc/c}]\n"
        "secrets: {f: {file: s.txt}, e: {environment: TOKEN}}\nconfigs: {c: {content: 'a=${TOKEN}'}}\n",
        environ={"TOKEN": "t"},
    )
    blueprint = convert_container(project, project.services["app"], Place("n", "x", {}))
    assert blueprint.body.host_config is not None and blueprint.body.host_config.mounts is not None
    mount = blueprint.body.host_config.mounts[0]
    assert (mount.source, mount.target, mount.read_only) == (f"{files.folder}/s.txt", "/run/secrets/f", True)
    assert [(u.path, u.content, u.mode, u.uid) for u in blueprint.uploads] == [
        ("/e", b"t", 0o400, 5),
        ("/etc/c", b"a=t", 0o444, 0),
    ]


def test_links_and_joined_services(files: Any) -> None:
    project = files.load(
        "services:\n  db: {image: x}\n"
        "  app: {image: x, links: ['db:database'], external_links: [other], volumes_from: ['db:ro', 'container:c']}\n"
    )
    body = convert_container(project, project.services["app"], Place("n", "x", {})).body
    assert body.networking_config is not None and body.networking_config.endpoints_config is not None
    assert body.networking_config.endpoints_config["demo_default"].links == ["demo-db-1:database", "other:other"]
    assert body.host_config is not None and body.host_config.volumes_from == ["service:db:ro", "container:c"]


def test_builds(files: Any) -> None:
    from berth.compose.image import ImageWishes, build_request

    files.write("ctx/Dockerfile.x", "FROM scratch\n")
    files.write("outside", "FROM outside\n")
    project = files.load(
        "services:\n"
        "  a: {build: {context: ctx, dockerfile: Dockerfile.x, args: [A=1, B], target: t, tags: ['x:2'], labels: {l: 1}}}\n"
        "  b: {build: {context: ctx, dockerfile: ../outside}}\n  c: {build: 'https://x.example/y.git'}\n",
        environ={"B": "b"},
    )
    a, b, c = (build_request(project, s, s.build, ImageWishes()) for s in project.services.values() if s.build is not None)
    assert (a[1].dockerfile, a[1].tags, a[1].build_args) == ("Dockerfile.x", ("demo-a", "x:2"), {"A": "1", "B": "b"})
    assert (a[1].target, a[1].labels) == ("t", {"l": "1"})
    assert b[1].dockerfile.startswith(".dockerfile.") and b[0] is not None and b"FROM outside" in b"".join(b[0])
    assert c[0] is None and c[1].remote == "https://x.example/y.git"
