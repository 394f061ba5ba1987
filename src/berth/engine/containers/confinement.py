"""What confines a container beyond namespaces: the security options of its record, and the labels of AppArmor and SELinux.

As with Docker, a label that this host's kernel knows nothing of changes nothing; the answer to create says so. Where the
kernel has AppArmor, a container is under the profile that it asks for, under none when it is privileged, else under the
default one. SELinux labels are refused where there is SELinux, rather than left out.
"""

from __future__ import annotations

from berth.engine.containers.record import ContainerRecord
from berth.engine.containers.security import SecurityOptions, parse_security_options
from berth.errors import NotImplementedKind
from berth.runtime.apparmor import DEFAULT_PROFILE
from berth.runtime.label import apparmor_enabled, selinux_enabled

_UNCONFINED = "unconfined"


def security_of(record: ContainerRecord) -> SecurityOptions:
    """The security options that a container was created with."""
    host = record.host_config
    return parse_security_options(
        host.security_opt or [], privileged=bool(host.privileged), no_new_privileges=record.no_new_privileges
    )


def apparmor_profile(options: SecurityOptions) -> str | None:
    """The profile to ask the runtime for, also for a further process; None where there is nothing to ask for."""
    if not apparmor_enabled():
        return None
    return options.apparmor or (_UNCONFINED if options.privileged else DEFAULT_PROFILE)


def check_labels(options: SecurityOptions) -> list[str]:
    """Warnings for labels that change nothing here; NotImplementedKind for those that nobody gives here."""
    labels = [label for label in options.labels if label != "disable"]
    warnings = []
    if options.apparmor not in ("", _UNCONFINED) and not apparmor_enabled():
        warnings.append(f"AppArmor is not enabled on this host: the profile {options.apparmor} changes nothing.")
    if labels:
        if selinux_enabled():
            raise NotImplementedKind(f"--security-opt label={labels[0]}: SELinux labels are not supported: leave the option out")
        warnings.append(f"SELinux is not enabled on this host: the label {labels[0]} changes nothing.")
    return warnings
