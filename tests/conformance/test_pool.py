"""The pool survives whatever a test does: it hangs, dies, or wants all memory."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.conformance.table import ROOT

SCRIPT = """
import json, os, time
from tests.conformance import pool
from tests.conformance.suite import Case, Outcome

class Suite:
    def run(self, case):
        if case.name == "hangs":
            time.sleep(60)
        if case.name == "dies":
            os._exit(3)
        if case.name == "eats":
            bytearray(2 * pool.MEMORY_BYTES)
        return Outcome("passed", case.name)

pool.SECONDS = 2
cases = [Case(name, "node", "") for name in ("hangs", "one", "dies", "eats", "two")]
for workers in (1, 2, 8):
    found = {case.name: outcome for case, outcome in pool.run_cases(Suite(), cases, workers)}
    print(json.dumps({name: [o.verdict, o.reason] for name, o in sorted(found.items())}))
"""


def test_every_end_of_a_test_is_an_outcome() -> None:
    """In a process of its own, as it forks: those of pytest-xdist have threads."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for line in done.stdout.splitlines():
        assert json.loads(line) == {
            "dies": ["crash", "exit code 3"],
            "eats": ["crash", "exit code 1"],
            "hangs": ["time-out", "2 s"],
            "one": ["passed", "one"],
            "two": ["passed", "two"],
        }
    assert len(done.stdout.splitlines()) == 3
