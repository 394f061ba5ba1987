"""Several threads decode the same types for the first time (`compose up --wait` crashed the interpreter by it)."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys, threading
from berth.client.decode import convert, decode
from berth.wire.container import ContainerInspectResponse, ContainerSummary
from berth.wire.system import EventMessage
sys.setswitchinterval(1e-6)
barrier = threading.Barrier(8)
done = []
def work():
    barrier.wait()
    decode(b'{"Id": "x", "State": {"Health": {"Log": []}}}', ContainerInspectResponse)
    decode(b'[{"Id": "x"}]', list[ContainerSummary])
    convert({"Type": "container", "Actor": {"ID": "x"}}, EventMessage)
    done.append(1)
threads = [threading.Thread(target=work) for _ in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
assert len(done) == 8
"""


def test_first_use_of_a_type_by_many_threads() -> None:
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
