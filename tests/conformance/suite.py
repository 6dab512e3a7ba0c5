"""The suite: onnx's own `BackendTest`, its cases by name, and what one of them comes to.

Nothing of a case is changed: model, data, tolerances and comparison are onnx's. To run it on
another machine or in another precision, change `OPTIONS`.
"""

from __future__ import annotations

import contextlib
import os
import unittest
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto
from onnx.backend.test import BackendTest
from onnx.backend.test.loader import load_model_tests

import clockstep
from clockstep.onnx_backend import ClockstepRep

__all__ = ["OPTIONS", "VERDICTS", "Case", "Outcome", "Suite", "cases"]

OPTIONS = {"machine": "lpu-v1", "precision": "exact"}

VERDICTS = ("passed", "refused", "does not fit", "wrong", "crash", "time-out")
"""What a test can come to: the last three are bugs."""

KINDS = {
    "node": "Node",
    "real": "Real",
    "simple": "Simple",
    "pytorch-converted": "PyTorchConverted",
    "pytorch-operator": "PyTorchOperator",
}
"""The suite's folders and what `BackendTest` calls the tests of each."""


@dataclass(frozen=True, slots=True)
class Case:
    """A test: its name, its folder, and the operator it is about ("" for models of several)."""

    name: str
    kind: str
    operator: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a test came to; `reason` is the diagnostic's code or the exception's class."""

    verdict: str
    reason: str = ""
    detail: str = ""


class WrongAnswer(Exception):
    """The backend's outputs are not those of the test."""


class _Backend(clockstep.backend):
    """`clockstep.backend` with our options, asked for nothing but the run itself."""

    @classmethod
    def is_compatible(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Every model is tried, so that refusals say why."""
        return True

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> ClockstepRep:
        """Tolerances, which the suite passes as well, are not ours."""
        return super().prepare(model, device, **OPTIONS)


class _Runner(BackendTest):
    """Tells wrong answers from failed assertions of our own."""

    @classmethod
    def assert_similar_outputs(cls, *args: Any, **kwargs: Any) -> None:
        """As onnx compares, but raising `WrongAnswer`."""
        try:
            super().assert_similar_outputs(*args, **kwargs)
        except (AssertionError, TypeError, AttributeError) as error:
            raise WrongAnswer(_line(str(error))) from None


class Suite:
    """All tests of the installed onnx; making it takes some seconds."""

    def __init__(self) -> None:
        with _quiet():
            self._items = _Runner(_Backend)._test_items
            self.cases = cases()

    def run(self, case: Case) -> Outcome:
        """Run one test here and now; `MemoryError` and everything else becomes an outcome."""
        function = self._items[f"{KINDS[case.kind]}Model"][f"{case.name}_cpu"].func
        try:
            with _quiet():
                function(unittest.TestCase())
        except WrongAnswer as error:
            return Outcome("wrong", "", str(error))
        except clockstep.UnsupportedModel as error:
            problems = " | ".join(map(str, error.diagnostics))
            return Outcome("refused", error.diagnostic.code, problems)
        except clockstep.DoesNotFit as error:
            return Outcome("does not fit", error.diagnostic.code, str(error))
        except BaseException as error:  # a crash is a finding, whatever it is
            return Outcome("crash", type(error).__name__, _line(str(error)))
        return Outcome("passed")


def cases() -> tuple[Case, ...]:
    """Every test of the suite, by folder and name."""
    found = []
    for kind in KINDS:
        tests = load_model_tests(kind=kind)
        operators = {test.name: _operator(test.model) for test in tests}
        for test in tests:
            base = test.name.partition("_expanded")[0]
            found.append(Case(test.name, kind, operators[test.name] or operators.get(base, "")))
    names = Counter(case.name for case in found)
    twice = [name for name, count in names.items() if count > 1]
    assert not twice, f"tests of the same name: {twice}"
    return tuple(sorted(found, key=lambda case: (list(KINDS).index(case.kind), case.name)))


def _operator(model: ModelProto | None) -> str:
    """The operator of a model with one node."""
    if model is None or len(model.graph.node) != 1:
        return ""
    node = model.graph.node[0]
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def _line(text: str) -> str:
    """The lines of a message as one."""
    return " ".join(text.split())[:300]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """onnx's tests warn, print and overflow as they please."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
