"""Run the command line inside the test process."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from typing import Any

from clockstep.app import main

__all__ = ["Done", "clockstep"]


@dataclass(frozen=True, slots=True)
class Done:
    """What one command left: exit status, stdout, stderr."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        """Stdout as the one JSON object it must be."""
        assert self.out.endswith("\n")
        assert self.out.count("\n") == 1, f"more than one line: {self.out!r}"
        return json.loads(self.out)

    def error(self) -> str:
        """Stderr as the one line it must be."""
        assert self.err.endswith("\n")
        assert self.err.count("\n") == 1, f"not one line: {self.err!r}"
        assert "Traceback" not in self.err
        assert not self.out
        return self.err.rstrip("\n")


def clockstep(*words: object) -> Done:
    """Run `clockstep WORDS...`."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(word) for word in words])
    return Done(status, out.getvalue(), err.getvalue())
