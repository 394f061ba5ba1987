"""`config` prints a file that means the same project."""

from __future__ import annotations

from typing import Any

import pytest

from berth.compose.commands.config import render
from berth.compose.fingerprint import config_hash

RICH = """
services:
  app:
    image: x
    build: {context: ., args: [A=1], labels: {l: v}, extra_hosts: ['h=1.2.3.4']}
    command: sh -c 'echo $$HOME'
    entrypoint: []
    environment: {A: '1', DOLLAR: 'a$$b', EMPTY: ''}
    ports: ['127.0.0.1:80:80/udp', '9000-9001:9000-9001', '81']
    volumes: [v:/v:ro, ./b:/b,
      {type: bind, source: /c, target: /c, bind: {create_host_path: false}}, {type: tmpfs, target: /t, tmpfs: {size: 1m}}]
    networks: {n: {aliases: [q], ipv4_address: 10.9.0.2}, default: }
    depends_on: {db: {condition: service_healthy, restart: true}}
    healthcheck: {test: 'true', interval: 1m30s}
    deploy: {replicas: 2, resources: {limits: {cpus: '0.5', memory: 64m}, reservations: {memory: 32m}},
      restart_policy: {condition: any}}
    mem_swappiness: 3
    mem_limit: 128m
    ulimits: {nofile: 5}
    secrets: [{source: s, mode: 0400}]
    configs: [{source: c, target: /c2}]
    extra_hosts: ['a:1.1.1.1', 'a:2.2.2.2']
    devices: [/dev/null]
    post_start: [{command: [a, b]}]
    env_file: [{path: none.env, required: false}]
    logging: {driver: local, options: {max-size: 1m}}
    blkio_config: {weight: 10}
  db: {image: y, healthcheck: {test: [CMD, z]}, network_mode: none, init: true}
networks: {n: {ipam: {config: [{subnet: 10.9.0.0/24}]}, driver_opts: {a: b}}}
volumes: {v: {external: true, name: real}}
secrets: {s: {file: s.txt}}
configs: {c: {content: 'x=$$y'}}
"""


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_round_trip(files: Any, form: str) -> None:
    files.write("s.txt", "s")
    first = files.load(RICH)
    second = files.load(render(first, list(first.services), form))
    assert second.services == first.services
    assert (second.networks, second.volumes, second.secrets, second.configs) == (
        first.networks, first.volumes, first.secrets, first.configs,
    )  # fmt: skip
    assert all(config_hash(first, s) == config_hash(second, second.services[n]) for n, s in first.services.items())
    assert files.warnings == []
