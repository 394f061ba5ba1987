"""What builds take over from this host, and the programs that make base images."""

from __future__ import annotations

import os
from collections.abc import Iterator

from berth.build.host_settings import BUNDLES, OWN_CERTIFICATES, apt_settings, npm_variables, pip_variables
from berth.doctor.check import Scene, listed, note, ok
from berth.wire.doctor import Finding

_HOW = "RUN steps get it for the time of the build, and nothing of it stays in the image (berthd --build-host-network-settings)."


def certificates(scene: Scene) -> Iterator[Finding]:
    """The bundle of certificate authorities, and those of the site's own."""
    bundle = next((path for path in BUNDLES if scene.host.exists(path)), "")
    own = []
    for pattern in OWN_CERTIFICATES:
        directory, ending = os.path.split(pattern)
        own += [f"{directory}/{name}" for name in scene.host.names(directory) if name.endswith(ending.lstrip("*"))]
    facts = {"bundle": bundle, "own": own}
    if not bundle:
        yield note(
            "this host has no bundle of certificate authorities",
            why="Images cannot be pulled from registries over TLS.",
            change="apt-get install ca-certificates",
            facts=facts,
        )
    elif own:
        yield note(f"this host trusts certificate authorities of its own: {listed(own)}", why=_HOW, facts=facts)
    else:
        yield ok(f"the bundle of certificate authorities is {bundle}; there are none of this site's own", facts=facts)


def mirrors(scene: Scene) -> Iterator[Finding]:
    """Proxies and package mirrors of apt, pip and npm."""
    host = scene.host
    lines = apt_settings(host.output("apt-config", "dump") or "")
    variables = pip_variables(host.output("pip", "config", "list") or "") | npm_variables(
        host.output("npm", "config", "list") or ""
    )
    found = [line.split('"')[0].strip() for line in lines] + sorted(variables)
    facts = {"apt": lines, "variables": variables}
    if found:
        yield note(f"this host's package tools have settings of their own: {listed(found)}", why=_HOW, facts=facts)
    else:
        yield ok("apt, pip and npm have no proxies and mirrors of their own on this host", facts=facts)


def programs(scene: Scene) -> Iterator[Finding]:
    """What `berth image bootstrap` needs."""
    if any(scene.host.exists(f"{folder}/mmdebstrap") for folder in ("/usr/bin", "/usr/local/bin")):
        yield ok("mmdebstrap is there: base images can be made from Debian's packages (berth image bootstrap)")
    else:
        yield note(
            "mmdebstrap is missing",
            why="`berth image bootstrap` makes Debian base images with it where no registry is reachable.",
            change="apt-get install mmdebstrap",
        )
