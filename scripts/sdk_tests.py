"""Run the integration tests of Docker's SDK for Python, unmodified, against dockerd and berthd.

The tests come with the SDK's source distribution (the last that has them is 7.0.0) and are driven with the SDK that is
installed here. Each engine runs in namespaces of its own, with a registry on its loopback as Docker Hub's mirror that holds
stand-ins for the images which the tests want. The exit status is 1 when a test passes on dockerd and not on berthd.
Needs root, tests/requirements-clients.txt and the Debian packages of `make test`.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from bench.engine import Peer, berth, dockerd

from support.engine import BIN
from support.registry import registry

SOURCE = "docker==7.0.0"
DOWNLOAD_SECONDS = 180
# Of these the issue says that berth answers as a node which is in no swarm and has no plugins.
SWARM = ("swarm", "service", "secret", "config", "plugin", "nodes")
# Differences that are meant, or are the tests' own: docs/dev/api.md says why.
MEANT = (
    "test_create_inspect_network_with_scope", "test_create_network_attachable", "test_create_network_ingress",
    "test_exec_run_failed", "test_build_in_context_abs_dockerfile",
)  # fmt: skip
GREETING = "#!/bin/sh\necho\necho 'Hello from Docker!'\n"
IMAGES = {"alpine": ("latest", "3.10"), "busybox": ("latest",), "hello-world": ("latest",)}


def root_file_system(name: str = "busybox") -> bytes:
    """Every applet of the host's static busybox, and the files that the tests look for; other layers for each name."""
    out = io.BytesIO()
    binary = "/usr/bin/busybox" if os.path.exists("/usr/bin/busybox") else "/bin/busybox"
    applets = subprocess.run([binary, "--list"], capture_output=True, text=True, check=True).stdout.split()
    files = {
        "hello": (0o755, GREETING),
        "etc/name": (0o644, name),
        "etc/passwd": (0o644, "root:x:0:0:root:/root:/bin/sh\npostgres:x:70:70::/:/bin/sh\ndefault:x:1000:1000::/:/bin/sh\n"),
        "etc/group": (0o644, "root:x:0:\npostgres:x:70:\n"),
    }
    with tarfile.open(fileobj=out, mode="w") as tar:
        for folder in ("bin", "etc", "root", "home", "usr", "usr/bin", "var", "var/log", "var/opt", "mnt", "proc", "sys", "dev"):
            _add(tar, folder, tarfile.DIRTYPE, 0o755)
        _add(tar, "tmp", tarfile.DIRTYPE, 0o1777)
        _add(tar, "bin/busybox", tarfile.REGTYPE, 0o755, Path(binary).read_bytes())
        for applet in sorted(set(applets) - {"busybox"}):
            _add(tar, f"bin/{applet}", tarfile.SYMTYPE, 0o777, link="busybox")
        for name, (mode, text) in files.items():
            _add(tar, name, tarfile.REGTYPE, mode, text.encode())
    return out.getvalue()


def _add(tar: tarfile.TarFile, name: str, kind: bytes, mode: int, data: bytes = b"", link: str = "") -> None:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size, info.linkname = kind, mode, len(data), link
    tar.addfile(info, io.BytesIO(data) if data else None)


def fill(peer: Peer, address: str) -> None:
    """The images, in the engine and in its registry."""
    with peer.client() as client:
        for name, tags in IMAGES.items():
            command = '["/hello"]' if name == "hello-world" else '["sh"]'
            for tag in tags:
                list(client.images.import_tar(root_file_system(name), repo=name, tag=tag, changes=[f"CMD {command}"]))
    environment = os.environ | {"DOCKER_HOST": f"unix://{peer.socket}"}
    for name, tags in IMAGES.items():
        for tag in tags:
            mirrored = f"{address}/library/{name}:{tag}"
            for command_line in (["tag", f"{name}:{tag}", mirrored], ["push", "-q", mirrored], ["rmi", mirrored]):
                subprocess.run(["docker", *command_line], check=True, env=environment, stdout=subprocess.DEVNULL)


def inside(name: str, tests: Path, output: Path, arguments: list[str]) -> None:
    """In namespaces of our own: the engine, its registry, and the tests."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory(prefix="berth-sdk-") as place, registry(Path(place) / "registry") as address:
        mirror = f"--registry-mirror=http://{address}"
        peer = berth("berth", mirror) if name == "berth" else dockerd(mirror, apart=False)
        assert peer is not None, "dockerd is not installed"
        try:
            fill(peer, address)
            # Contexts are kept beside the configuration; without one they would be kept with the tests.
            (Path(place) / ".docker").mkdir()
            (Path(place) / ".docker" / "config.json").write_text("{}")
            folder = tests / "integration"
            files = [str(path) for path in sorted(folder.glob("*_test.py")) if not any(word in path.name for word in SWARM)]
            environment = os.environ | {"DOCKER_HOST": f"unix://{peer.socket}", "HOME": place, "PYTHONPATH": str(tests.parent)}
            command = [str(BIN / "python"), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=120", "--tb=short", "-rfE"]
            command += [f"--junitxml={output / name}.xml", f"--rootdir={tests.parent}", "-c", "/dev/null", *arguments, *files]
            with open(output / f"{name}.log", "w") as log:
                subprocess.run(
                    command, env=environment, cwd=tests.parent, stdout=log, stderr=log, stdin=subprocess.DEVNULL, check=False
                )  # fmt: skip
        finally:
            peer.stop()


def outcomes(path: Path) -> dict[str, str]:
    """Each test's outcome: passed, failed or skipped."""
    found = {}
    for case in ElementTree.parse(path).iter("testcase"):
        tags = {child.tag for child in case}
        what = "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"
        found[f"{case.get('classname', '').rpartition('integration.')[2]}.{case.get('name')}"] = what
    return found


def download(place: Path) -> Path:
    """The directory `tests` of the source distribution.

    Of this package alone the source is wanted: of all of them (`:all:`), pip would compile what builds it as well, and so on.
    """
    command = [str(BIN / "pip"), "download", "-q", "--no-deps", "--no-binary", "docker", "-d", str(place), SOURCE]
    try:
        subprocess.run(command, check=True, timeout=DOWNLOAD_SECONDS)
    except subprocess.TimeoutExpired:
        sys.exit(f"sdk_tests: pip has not downloaded {SOURCE} within {DOWNLOAD_SECONDS} s: look at its index, or give --tests")
    except subprocess.CalledProcessError as error:
        sys.exit(f"sdk_tests: pip could not download {SOURCE} (exit status {error.returncode}, above): or give --tests")
    with tarfile.open(next(place.glob("*.tar.gz"))) as tar:
        members = [member for member in tar if "/tests/" in member.name and (member.isdir() or member.isfile())]
        tar.extractall(place, members=members)
    return next(place.glob("*/tests"))


def report(output: Path) -> int:
    """Print the table; the number of tests that pass on dockerd alone and are not meant to."""
    theirs, ours = outcomes(output / "dockerd.xml"), outcomes(output / "berth.xml")
    print(f"{'':>10} passed  failed skipped")
    for name, found in (("dockerd", theirs), ("berthd", ours)):
        print(f"{name:>10}" + "".join(f"{list(found.values()).count(what):>8}" for what in ("passed", "failed", "skipped")))
    worse = [name for name, what in theirs.items() if what == "passed" and ours.get(name) != "passed"]
    for title, names in (
        ("passes on dockerd alone", worse),
        ("passes on berthd alone", [name for name, what in ours.items() if what == "passed" and theirs.get(name) != "passed"]),
        ("fails on both", [name for name, what in theirs.items() if what == "failed" and ours.get(name) == "failed"]),
    ):
        print(f"\n{title}: {len(names)}", *sorted(names), sep="\n    ")
    return len([name for name in worse if not name.endswith(MEANT)])


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", type=Path, help="the SDK's directory `tests`, else it is downloaded")
    parser.add_argument("--output", type=Path, help="where results and logs are kept")
    parser.add_argument("--engine", choices=("berth", "dockerd"), action="append", help="one engine alone, without comparison")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options, arguments = parser.parse_known_args()
    if options.inside:
        inside(options.inside, options.tests, options.output, arguments)
        return 0
    output = options.output or Path(tempfile.mkdtemp(prefix="berth-sdk-tests-"))
    output.mkdir(exist_ok=True)
    tests = options.tests or download(output)
    for name in options.engine or ("dockerd", "berth"):
        started = time.monotonic()
        own = ["--inside", name, "--tests", str(tests), "--output", str(output), *arguments]
        unshare = ["unshare", "--net", "--mount", "--propagation", "private"]
        subprocess.run([*unshare, sys.executable, __file__, *own], check=True)
        print(f"{name}: {time.monotonic() - started:.0f} s, {output / name}.log", file=sys.stderr)
    return 1 if not options.engine and report(output) else 0


if __name__ == "__main__":
    sys.exit(main())
