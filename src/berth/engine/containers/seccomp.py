"""The seccomp filter of a container: the built-in profile, none, or one the user gave."""

from __future__ import annotations

from berth.engine.containers.security import SecurityOptions
from berth.model.oci import Seccomp
from berth.runtime import seccomp_profile


def filter_for(options: SecurityOptions, capabilities: tuple[str, ...]) -> Seccomp | None:
    """None is unconfined."""
    if options.seccomp == "unconfined":
        return None
    held = frozenset(capabilities)
    if options.seccomp == "builtin":
        return seccomp_profile.default(held)
    return seccomp_profile.custom(options.seccomp.encode(), held)
