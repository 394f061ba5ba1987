"""What confines a container beyond namespaces: the security options of its record, and the labels of AppArmor and SELinux.

As with Docker, a label that this host's kernel knows nothing of changes nothing; the answer to create says so. Where the
kernel has the module, an AppArmor profile is the business of another runtime's binary (runc, crun), which applies it;
berth's own runtime has no labels, and refuses a container that asks for one rather than run it without.
"""

from __future__ import annotations

from berth.engine.containers.record import ContainerRecord
from berth.engine.containers.security import SecurityOptions, parse_security_options
from berth.errors import NotImplementedKind
from berth.runtime.label import apparmor_enabled, selinux_enabled


def security_of(record: ContainerRecord) -> SecurityOptions:
    """The security options that a container was created with."""
    host = record.host_config
    return parse_security_options(
        host.security_opt or [], privileged=bool(host.privileged), no_new_privileges=record.no_new_privileges
    )


def apparmor_profile(options: SecurityOptions) -> str | None:
    """The profile to ask the runtime for; None where there is nothing to ask for."""
    return options.apparmor if options.apparmor and apparmor_enabled() else None


def check_labels(options: SecurityOptions, binary: str) -> list[str]:
    """Warnings for labels that change nothing here; NotImplementedKind for those that this runtime cannot give.

    `binary` is another runtime's, or empty.
    """
    labels = [label for label in options.labels if label != "disable"]
    warnings = []
    if options.apparmor not in ("", "unconfined"):
        if not apparmor_enabled():
            warnings.append(f"AppArmor is not enabled on this host: the profile {options.apparmor} changes nothing.")
        elif not binary:
            raise NotImplementedKind(
                f"--security-opt apparmor={options.apparmor}: berth's own runtime applies no AppArmor profiles: choose a runtime "
                "that does with --runtime runc, or leave the option out"
            )
    if labels:
        if selinux_enabled():
            raise NotImplementedKind(f"--security-opt label={labels[0]}: SELinux labels are not supported: leave the option out")
        warnings.append(f"SELinux is not enabled on this host: the label {labels[0]} changes nothing.")
    return warnings
