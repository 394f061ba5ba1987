"""A data root as an earlier berth left it, kept in the repository: tests/data/store-<schema>.

    rows.json      every table's rows; bytes as {"bytes": text}. @ROOT@ stands for the data root,
                   @ID@ for the engine's id, which follows from it
    tree.tar.gz    all other files of the root

To make one of the present schema:  .venv/bin/python tests/support/store_fixture.py DIRECTORY   (as root; DIRECTORY is new)

The programs in it need nothing of an image: the host's static busybox is bound in.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import tarfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from berth.engine.config import EngineConfig
from berth.storage.database import MIGRATIONS
from support.platforms import layout

DATA = Path(__file__).parent.parent / "data"
BUSYBOX = ("-v", "/bin/busybox:/bin/busybox:ro")
SHELL = ("/bin/busybox", "sh", "-c")
_DATABASE = "berth.db"


def fill(engine: Any) -> None:
    """What a user may have when he upgrades."""
    import io

    def tar(**files: str) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            for name, text in files.items():
                info = tarfile.TarInfo(name)
                info.size, info.mode = len(text), 0o644
                archive.addfile(info, io.BytesIO(text.encode()))
        return out.getvalue()

    engine.ok("import", "-c", "LABEL made=before", "-", "imported:1", input=tar(first="one"))
    engine.ok("save", "-o", f"{engine.directory}/saved.tar", "imported:1")
    engine.ok("load", input=layout(Path(engine.directory, "layout"), base=tar(base="small")).tar())
    engine.ok("tag", "imported:1", "imported:2")
    context = tar(Dockerfile="FROM imported:1\nCOPY second /second\nENV A=b\n", second="two")
    engine.ok("build", "-t", "built:1", "-", input=context)
    engine.ok("volume", "create", "--label", "a=b", "vessel")
    engine.ok("network", "create", "--subnet", "10.213.7.0/24", "net")
    engine.ok("run", "--name", "wrote", "-v", "vessel:/v", *BUSYBOX, "built:1", *SHELL, "echo kept > /v/file; echo said")
    failed = engine.docker("run", "--name", "failed", "--label", "x=y", *BUSYBOX, "built:1", *SHELL, "echo mine > /mine; exit 3")
    assert failed.returncode == 3, failed
    engine.ok("create", "--name", "made", "--network", "net", "-p", "127.0.0.1::80", "--restart", "on-failure:2", "-m", "64m",
              *BUSYBOX, "imported:2", *SHELL, "echo begun; /bin/busybox cat /first")  # fmt: skip
    engine.ok("create", "--name", "anonymous", "-v", "/scratch", *BUSYBOX, "imported:1", *SHELL, "true")


def save(root: str, place: Path) -> None:
    """Keep a root that no engine uses."""
    place.mkdir(parents=True)
    tables: dict[str, list[dict[str, Any]]] = {}
    with closing(sqlite3.connect(f"{root}/{_DATABASE}")) as database:
        database.row_factory = sqlite3.Row
        (schema,) = database.execute("PRAGMA user_version").fetchone()
        for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall():
            rows = [dict(row) for row in database.execute(f"SELECT * FROM {name}")]
            tables[name] = [{key: _kept(value, root) for key, value in row.items()} for row in rows]
    (place / "rows.json").write_text(json.dumps({"schema": schema, "tables": tables}, indent=1) + "\n")
    with tarfile.open(place / "tree.tar.gz", "w:gz") as tree:
        for name in sorted(os.listdir(root)):
            if not name.startswith(_DATABASE) and name != "lock":
                tree.add(f"{root}/{name}", name, filter=_wanted)


def _wanted(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Not what is made anew from the host's own settings."""
    return None if member.name.startswith("build/host-settings") or member.name.endswith("/resolv.conf") else member


def restore(place: Path, root: str, schema: int = 0) -> None:
    """Put a root there as it was, or as it would have been with an earlier `schema`, which lacked tables or columns only."""
    kept = json.loads((place / "rows.json").read_text())
    schema = schema or kept["schema"]
    os.makedirs(root, 0o700)
    with tarfile.open(place / "tree.tar.gz") as tree:
        tree.extractall(root)
    with closing(sqlite3.connect(f"{root}/{_DATABASE}")) as database:
        for script in MIGRATIONS[:schema]:
            database.executescript(script)
        for table, rows in kept["tables"].items():
            columns = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
            for row in rows if columns else ():
                values = {key: _put(value, root) for key, value in row.items() if key in columns}
                marks = ", ".join("?" for _ in values)
                database.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", tuple(values.values()))
        database.execute(f"PRAGMA user_version={schema}")
        database.commit()


def _kept(value: Any, root: str) -> Any:
    if isinstance(value, bytes):
        return {"bytes": _kept(value.decode(), root)}
    return value.replace(root, "@ROOT@").replace(EngineConfig(root=root).engine_id, "@ID@") if isinstance(value, str) else value


def _put(value: Any, root: str) -> Any:
    if isinstance(value, dict):
        return _put(value["bytes"], root).encode()
    return value.replace("@ROOT@", root).replace("@ID@", EngineConfig(root=root).engine_id) if isinstance(value, str) else value


def main() -> None:
    """Make one."""
    from support.engine import EngineProcess

    engine = EngineProcess()
    engine.start()
    try:
        fill(engine)
        time.sleep(0.5)
        engine.terminate()
        save(engine.root, Path(sys.argv[1]))
    finally:
        if engine.process is not None and engine.process.poll() is not None:
            engine.start()
        engine.ok("rm", "-fv", *engine.ok("ps", "-aq").split())
        engine.shut_down()


if __name__ == "__main__":
    main()
