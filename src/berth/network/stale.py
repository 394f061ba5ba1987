"""What engines left on the host that are no more: their root has been deleted, so nobody will ever adopt or remove it.

    /run/berth-networks/<table>     one file per engine that has made something on this host; its content is the engine's root

An engine is given up when its root does not exist and none of its bridges has a port (a root on a disk that is not mounted at the
moment may still have running containers). Called under the host-wide lock.
"""

from __future__ import annotations

import os

from berth.kernel import netlink
from berth.network import bridge, foreign
from berth.network.nftables import Nftables

DIRECTORY = "/run/berth-networks"
_PREFIX = "berth-"


def announce(table: str, root: str, directory: str = DIRECTORY) -> None:
    """Note that this engine has things on the host."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    with open(f"{directory}/{table}", "w", encoding="utf-8") as file:
        file.write(root)


def withdraw(table: str, directory: str = DIRECTORY) -> None:
    """Note that it has none any more. Idempotent."""
    try:
        os.unlink(f"{directory}/{table}")
    except FileNotFoundError:
        pass


def remove_abandoned(nft: Nftables, directory: str = DIRECTORY) -> list[str]:
    """Remove rules and bridges of engines that are no more; the names of their tables."""
    gone = []
    for table in sorted(os.listdir(directory)) if os.path.isdir(directory) else []:
        with open(f"{directory}/{table}", encoding="utf-8") as file:
            root = file.read()
        if not table.startswith(_PREFIX) or not root.startswith("/") or os.path.exists(root):
            continue
        stem = bridge.device_pattern(table.removeprefix(_PREFIX), is_default_engine=False).removesuffix("*")
        links = netlink.links()
        bridges = {int(link["index"]): str(link["name"]) for link in links if str(link["name"]).startswith(stem)}
        if any(link["master"] in bridges for link in links):
            continue
        nft.run(f"table inet {table}\ndelete table inet {table}")
        foreign.remove(nft, table)
        for name in bridges.values():
            bridge.remove(name)
        withdraw(table, directory)
        gone.append(table)
    return gone
