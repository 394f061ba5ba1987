"""`docker build` with the unmodified CLI (classic builder), docker-compose 1.29 and the Python SDK."""

from __future__ import annotations

import http.server
import io
import json
import os
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import docker as sdk
import docker.errors
import pytest

from support.engine import EngineProcess


def context(folder: Path, files: Mapping[str, str | bytes]) -> str:
    """A context directory; `-> target` makes a link."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str) and content.startswith("-> "):
            path.symlink_to(content[3:])
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content)
    return str(folder)


def build(
    engine: EngineProcess, folder: Path, dockerfile: str, *arguments: str, **files: str | bytes
) -> subprocess.CompletedProcess[str]:
    """Build with these files beside the Dockerfile, tag `built`."""
    context(folder, {"Dockerfile": dockerfile, **files})
    return engine.docker("build", "-t", "built", *arguments, str(folder))


def ok(engine: EngineProcess, folder: Path, dockerfile: str, *arguments: str, **files: str | bytes) -> str:
    done = build(engine, folder, dockerfile, *arguments, **files)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def shell(engine: EngineProcess, script: str, image: str = "built") -> str:
    return engine.ok("run", "--rm", image, "sh", "-c", script)


def archive(files: Mapping[str, bytes], mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.uid, info.gid = len(data), 7, 8
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def test_an_image_is_built_and_runs(engine: EngineProcess, tmp_path: Path) -> None:
    output = ok(
        engine,
        tmp_path,
        "FROM busybox\nENV GREETING=hello\nWORKDIR /app\nCOPY . .\nRUN echo $GREETING > made && chown worker made\n"
        'USER worker\nEXPOSE 80\nLABEL a=b\nCMD ["cat", "made", "file"]\n',
        file="content\n",
    )
    assert engine.ok("run", "--rm", "built") == "hello\ncontent"
    assert "Step 9/9 : CMD" in output
    config = json.loads(engine.ok("image", "inspect", "built"))[0]["Config"]
    assert (config["WorkingDir"], config["User"], config["Labels"]) == ("/app", "worker", {"a": "b"})
    assert shell(engine, "stat -c '%u:%g %n' /app /app/file /app/made") == "0:0 /app\n0:0 /app/file\n1000:0 /app/made"


@pytest.fixture
def own_engine(engine: EngineProcess) -> Iterator[EngineProcess]:
    """An engine that the test may restart."""
    own = EngineProcess()
    own.start()
    own.add_busybox()
    yield own
    own.shut_down()


def test_the_cache_is_used_survives_a_restart_and_gives_the_same_image(own_engine: EngineProcess, tmp_path: Path) -> None:
    engine = own_engine
    text = "FROM busybox\nCOPY a /a\nRUN date +%N > /stamp\nENV X=1\n"
    ok(engine, tmp_path, text, a="1")
    first = engine.ok("image", "inspect", "-f", "{{.Id}}", "built")
    engine.terminate()
    engine.start()
    os.utime(tmp_path / "a", (1, 1))
    assert ok(engine, tmp_path, text, a="1").count("Using cache") == 3
    assert engine.ok("image", "inspect", "-f", "{{.Id}}", "built") == first
    assert ok(engine, tmp_path, text, a="2").count("Using cache") == 0
    assert ok(engine, tmp_path, text, "--no-cache", a="2").count("Using cache") == 0


def test_stages_copy_from_each_other(engine: EngineProcess, tmp_path: Path) -> None:
    ok(
        engine,
        tmp_path,
        "FROM busybox AS tools\n"
        "RUN mkdir -p /opt/t && cd /opt/t && echo data > f && ln f hard && ln -s f soft && chown 1000:2000 /opt/t/f"
        " && chmod 4750 /opt/t/f && mkdir -m 700 /opt/t/closed && ln -s /opt/t /via\n"
        "FROM busybox AS unused\nRUN exit 1\n"
        "FROM busybox\nCOPY --from=tools /opt/t /copied\nCOPY --from=0 --chown=5:6 /via/soft /one\n"
        "COPY --from=tools /opt/*/f /w/\n"
        "COPY --from=busybox:latest /bin/busybox /from-image/\n",
    )
    shown = shell(engine, "cd /copied; stat -c '%a %u:%g %h %N' closed f hard soft; stat -c '%a %u:%g %F' /one /w/f; cat /one")
    assert shown.splitlines() == [
        "700 0:0 2 closed",
        "4750 1000:2000 2 f",
        "4750 1000:2000 2 hard",
        "777 0:0 1 'soft' -> 'f'",
        "4750 5:6 regular file",
        "4750 1000:2000 regular file",
        "data",
    ]
    assert shell(engine, "/from-image/busybox true && echo runs") == "runs"


def test_links_to_directories_stay(engine: EngineProcess, tmp_path: Path) -> None:
    ok(
        engine,
        tmp_path,
        "FROM busybox AS other\nRUN mkdir -p /r/lib/deep && echo other > /r/lib/deep/b\n"
        "FROM busybox\nRUN mkdir -p /usr/lib && ln -s usr/lib /lib\nCOPY rootfs/ /\nCOPY --from=other /r/ /\n",
        **{"rootfs/lib/a": "context\n", "rootfs/new/c": "c"},
    )
    assert shell(engine, "readlink /lib; cat /usr/lib/a /usr/lib/deep/b; ls /new") == "usr/lib\ncontext\nother\nc"


def test_target_arguments_and_labels(engine: EngineProcess, tmp_path: Path) -> None:
    ok(
        engine,
        tmp_path,
        "ARG BASE=nothing\nFROM ${BASE} AS one\nARG V=default\nRUN echo $V > /v\nFROM one AS two\nRUN exit 1\n",
        "--target", "one", "--build-arg", "BASE=busybox", "--build-arg", "V=given", "--label", "l=1",
    )  # fmt: skip
    assert shell(engine, "cat /v; env | grep -c ^V= || true") == "given\n0"
    assert engine.ok("image", "inspect", "-f", "{{.Config.Labels.l}}", "built") == "1"
    assert "|1 V=given /bin/sh -c echo $V > /v" in engine.ok("history", "--no-trunc", "built")


def test_add_unpacks_archives(engine: EngineProcess, tmp_path: Path) -> None:
    ok(
        engine,
        tmp_path,
        "FROM busybox\nADD a.tar.gz b.tar.xz /x/\nCOPY a.tar.gz /y/\n",
        **{"a.tar.gz": archive({"in/a": b"A"}), "b.tar.xz": archive({"in/b": b"B"}, "w:xz")},
    )
    assert shell(engine, "cat /x/in/a /x/in/b; stat -c %u:%g /x/in/a; ls /y") == "AB7:8\na.tar.gz"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server on loopback with one file and one context archive."""
    (tmp_path / "web").mkdir()
    (tmp_path / "web/file.txt").write_text("from the web")
    (tmp_path / "web/ctx.tar.gz").write_bytes(archive({"Dockerfile": b"FROM busybox\nCOPY f /f\n", "f": b"F"}))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(tmp_path / "web"))  # type: ignore[arg-type]

        def log_message(self, *arguments: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_add_from_the_web_and_a_context_from_the_web(engine: EngineProcess, tmp_path: Path, web: str) -> None:
    ok(engine, tmp_path / "c", f"FROM busybox\nADD {web}/file.txt /dir/\nADD {web}/file.txt /name\n")
    assert shell(engine, "cat /dir/file.txt /name; stat -c %a /name") == "from the webfrom the web600"
    assert engine.docker("build", "-t", "remote", f"{web}/ctx.tar.gz").returncode == 0
    assert shell(engine, "cat /f", "remote") == "F"
    missing = build(engine, tmp_path / "c", f"FROM busybox\nADD {web}/gone /x\n")
    assert missing.returncode == 1
    assert "with status 404" in missing.stderr


def test_ignored_files_stay_out(engine: EngineProcess, tmp_path: Path) -> None:
    files = {"keep/a": "1", "drop/b": "2", "drop/keep": "3", ".dockerignore": "drop/*\n!drop/keep\nDockerfile\n.dockerignore\n"}
    ok(engine, tmp_path, "FROM busybox\nCOPY . /ctx\n", **files)
    assert shell(engine, "cd /ctx; find . -type f | sort") == "./drop/keep\n./keep/a"


def test_mounts_of_run_leave_nothing_in_the_image(engine: EngineProcess, tmp_path: Path) -> None:
    output = ok(
        engine,
        tmp_path,
        "FROM busybox AS tool\nRUN echo t > /tool\nFROM busybox\nRUN ln -s /var /alias\n"
        "RUN --mount=type=cache,target=/cache/deep echo x >> /cache/deep/f; wc -l < /cache/deep/f\n"
        "RUN --mount=type=cache,target=/cache/deep echo y >> /cache/deep/f; wc -l < /cache/deep/f\n"
        "RUN --mount=target=/src cat /src/file; echo no > /src/file || true\n"
        "RUN --mount=target=/src,rw echo changed > /src/file\n"
        "RUN --mount=from=tool,source=/tool,target=/t cat /t\n"
        "RUN --mount=from=tool,target=/all,rw cat /all/tool; rm /all/tool\n"
        "RUN --mount=type=tmpfs,target=/alias/spool/tmpfs touch /var/spool/tmpfs/x\n"
        "RUN --mount=target=/home/worker/new cat /home/worker/new/file\n",
        file="source\n",
    )
    said = [line for line in output.splitlines() if line in ("1", "2", "t", "source", "changed")]
    assert said == ["1", "2", "source", "t", "t", "source"]
    assert shell(engine, "ls -d /cache /src /t /all /var/spool/* /home/worker/* 2>/dev/null | wc -l") == "0"
    history = json.loads(engine.ok("image", "inspect", "built"))[0]["RootFS"]["Layers"]
    assert len(history) == 2


def test_heredocs_and_shells(engine: EngineProcess, tmp_path: Path) -> None:
    ok(
        engine,
        tmp_path,
        "FROM busybox\nENV V=val\nRUN <<EOF\nset -e\necho one > /r\necho two >> /r\nEOF\n"
        "RUN <<EOF\n#!/bin/cat\nscript\nEOF\nRUN cat > /stdin <<EOF\n$V\nEOF\n"
        "COPY --chmod=755 <<EOF <<'RAW' /files/\necho $V\nEOF\necho $V\nRAW\n"
        'SHELL ["/bin/sh", "-ec"]\nRUN false || true; echo "$0" > /shell\n',
    )
    assert shell(engine, "cat /r /stdin; /files/EOF; cat /files/RAW") == "one\ntwo\nval\nval\necho $V"


def test_onbuild_healthcheck_and_volumes(engine: EngineProcess, tmp_path: Path) -> None:
    ok(engine, tmp_path / "a", "FROM busybox\nONBUILD COPY f /onbuild\nONBUILD RUN echo ran >> /onbuild\n")
    engine.ok("tag", "built", "parent")
    ok(engine, tmp_path / "b", "FROM parent\nHEALTHCHECK --interval=5s CMD true\nVOLUME /data\nSTOPSIGNAL SIGINT\n", f="copied\n")
    assert shell(engine, "cat /onbuild") == "copied\nran"
    config = json.loads(engine.ok("image", "inspect", "built"))[0]["Config"]
    assert config["Healthcheck"] == {"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000}
    assert (config["Volumes"], config["StopSignal"], config.get("OnBuild")) == ({"/data": {}}, "SIGINT", None)


def test_run_has_a_network_of_its_own(engine: EngineProcess, tmp_path: Path) -> None:
    output = ok(
        engine,
        tmp_path,
        "FROM busybox\nRUN ip -4 addr show eth0 | grep -c inet\nRUN --network=none ip link | grep -c eth0 || echo none\n"
        "RUN grep extra.host /etc/hosts\n",
        "--add-host", "extra.host:10.1.2.3",
    )  # fmt: skip
    assert "\n1\n" in output and "\nnone\n" in output and "10.1.2.3\textra.host" in output


def test_failures(engine: EngineProcess, tmp_path: Path) -> None:
    failed = build(engine, tmp_path, "FROM busybox\nRUN exit 42\n")
    assert failed.returncode == 42
    assert "The command '/bin/sh -c exit 42' returned a non-zero code: 42" in failed.stderr
    unknown = build(engine, tmp_path, "FROM busybox\n\nCOPPY a b\n")
    assert unknown.returncode == 1
    assert "dockerfile parse error on line 3: unknown instruction: COPPY (did you mean COPY?)" in unknown.stderr
    assert "   3 | >>> COPPY a b" in unknown.stderr
    missing = build(engine, tmp_path, "FROM busybox\nCOPY nothing /\n")
    assert "file not found in build context or excluded by .dockerignore: stat nothing" in missing.stderr
    nobody = build(engine, tmp_path, "FROM busybox\nUSER ghost\nRUN id\n")
    assert "unable to find user ghost: no matching entries in passwd file" in nobody.stderr


def test_quiet_iidfile_and_a_dockerfile_from_standard_input(engine: EngineProcess, tmp_path: Path) -> None:
    done = engine.docker("build", "-q", "--iidfile", str(tmp_path / "id"), "-", input="FROM busybox\nENV Q=1\n")
    assert done.returncode == 0
    assert done.stdout.strip() == (tmp_path / "id").read_text().strip()
    assert engine.docker("image", "rm", done.stdout.strip()).returncode == 0
    (tmp_path / "f").write_text("F")
    piped = engine.docker("build", "-q", "-f", "-", str(tmp_path), input="FROM busybox\nCOPY f /f\n")
    assert piped.returncode == 0
    assert shell(engine, "cat /f", piped.stdout.strip()) == "F"


def test_interrupting_a_build_leaves_nothing(engine: EngineProcess, tmp_path: Path) -> None:
    context(tmp_path, {"Dockerfile": "FROM busybox\nRUN echo begun; sleep 4321\n"})
    client = subprocess.Popen(
        ["docker", "build", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=engine.environment()
    )
    assert client.stdout is not None
    while b"begun" not in client.stdout.readline():
        pass
    client.terminate()
    client.wait()
    client.stdout.close()
    deadline = time.monotonic() + 10
    while _sleeping() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _sleeping()


def _sleeping() -> bool:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")[:2] == [b"sleep", b"4321"]:
                    return True
            except OSError:
                continue
    return False


def test_pruning_and_disk_usage(engine: EngineProcess, tmp_path: Path) -> None:
    engine.ok("builder", "prune", "-af")
    ok(
        engine,
        tmp_path,
        "FROM busybox AS a\nRUN dd if=/dev/zero of=/big bs=1000 count=1000\nFROM busybox\nCOPY --from=a /bin/true /t\n",
    )
    usage = engine.ok("system", "df", "--format", "{{.Type}} {{.TotalCount}}")
    assert "Build Cache 2" in usage
    assert "Total reclaimed space: 1MB" in engine.ok("builder", "prune", "-f")
    assert shell(engine, "echo alive") == "alive"


def test_the_python_sdk(engine: EngineProcess, tmp_path: Path) -> None:
    client = sdk.DockerClient(base_url=engine.host)
    try:
        image, log = client.images.build(
            path=context(tmp_path, {"Dockerfile": "FROM busybox\nRUN echo sdk\n"}), tag="sdk:1", rm=True
        )
        assert image.tags == ["sdk:1"]
        assert {"stream": "sdk\n"} in list(log)
        with pytest.raises(docker.errors.BuildError, match="returned a non-zero code: 9"):
            client.images.build(fileobj=io.BytesIO(b"FROM busybox\nRUN exit 9\n"))
        with pytest.raises(docker.errors.APIError, match="unknown instruction: FRO"):
            client.images.build(fileobj=io.BytesIO(b"FRO busybox\n"))
    finally:
        client.close()


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
def test_docker_compose_builds(engine: EngineProcess, tmp_path: Path) -> None:
    context(
        tmp_path,
        {
            "docker-compose.yml": "version: '3.7'\nservices:\n  web:\n    build:\n      context: .\n      args: {V: seven}\n"
            "      target: final\n    network_mode: bridge\n    command: cat /v\n",
            "Dockerfile": "FROM busybox AS final\nARG V\nRUN echo v=$V > /v\nFROM final\nRUN false\n",
        },
    )
    up = engine.run("docker-compose", "-p", "built", "up", "--build", cwd=str(tmp_path))
    assert up.returncode == 0, up.stdout + up.stderr
    assert "v=seven" in up.stdout
    assert engine.run("docker-compose", "-p", "built", "down", cwd=str(tmp_path)).returncode == 0
