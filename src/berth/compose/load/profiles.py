"""Profiles: which services take part."""

from __future__ import annotations

from collections.abc import Mapping

from berth.compose.model import Service


def active_services(
    services: Mapping[str, Service], profiles: tuple[str, ...], wanted: tuple[str, ...]
) -> tuple[dict[str, Service], dict[str, Service]]:
    """Active and disabled ones. A service without profiles is active; one that is named, too, with the services of its own
    profiles that it depends on; "*" activates all."""
    enabled = set(profiles)
    named = {name for name in wanted if name in services}
    for name in named:
        enabled.update(services[name].profiles)
    if not (set(wanted) & set(services)):
        named = set()
    active = {
        name: service
        for name, service in services.items()
        if not service.profiles or "*" in enabled or enabled & set(service.profiles) or name in named
    }
    return active, {name: service for name, service in services.items() if name not in active}
