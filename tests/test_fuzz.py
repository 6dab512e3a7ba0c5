"""The fuzzers themselves: a small part of what they do, and that they find what is broken."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, seed, settings
from numpy.typing import NDArray
from onnx import helper

import fuzz.case
from clockstep_compiler import Options, expr
from clockstep_compiler.lowering import elementwise, quantized
from clockstep_compiler.operators import OPERATORS
from clockstep_isa import load_machine, machine_to_dict
from clockstep_runtime.semantics import EXECUTES
from fuzz.case import Case, Tally, cases
from fuzz.graphs import save, search
from fuzz.mutators import blind
from fuzz.operators import ROWS
from fuzz.targets import TARGETS, Target
from tests.support.models import build

Array = NDArray[Any]


def test_rows_are_operators() -> None:
    """Each once and in order; `make fuzz` says which operators have no row yet."""
    names = [row.op for row in ROWS]
    assert names == sorted(set(names))
    assert set(names) <= {operator.name for operator in OPERATORS}


def test_forty_graphs() -> None:
    tally = Tally()
    assert search(40, 0, tally) is None
    assert tally.cases == tally.agreed + sum(tally.refused.values()) == 40
    assert tally.agreed > 30
    assert tally.unbounded < tally.elements / 4


def test_cases_without_a_reference_are_counted_apart() -> None:
    """The maximum of nothing but NaNs: onnx's evaluator fails there."""
    nodes = [helper.make_node("Acos", ["x"], ["t"])]
    nodes += [helper.make_node("MaxPool", ["t"], ["y"], kernel_shape=[1])]
    model = build(nodes, {"x": ("float32", (1, 1, 2))}, {"y": ("float32", (1, 1, 2))}, {})
    x, tally = np.array([[[0.5, 3.0]]], np.float32), Tally()
    case = Case(model, {"x": x}, load_machine("tiny"), Options(effort="fast"), "tiny", False)
    fuzz.case.check(case, tally)
    assert dict(tally.refused) == {"by onnx's evaluator": 1}


def test_the_same_seed_gives_the_same_cases() -> None:
    def drawn() -> list[str]:
        found: list[str] = []

        @seed(7)
        @settings(max_examples=15, database=None, deadline=None)
        @given(cases())
        def collect(case: Case) -> None:
            found.append(repr(case))

        collect()
        return found

    assert drawn() == drawn()


FEW = tuple(row for row in ROWS if row.op in ("Add", "Cast", "QuantizeLinear", "Relu", "Sub"))
"""Operators that are broken here, and one that is not: found among all, they would take long."""


def wrong_cast(**arguments: Any) -> Array:
    return EXECUTES_CAST(**{**arguments, "round": "rtz"})


EXECUTES_CAST = EXECUTES["cast"]


def no_relu(a: expr.Expr) -> expr.Expr:
    return a


def late(quotient: expr.Expr, zero: expr.Const, dtype: str) -> expr.Expr:
    return SHIFTED(quotient, expr.Const(zero.array + 1, zero.out), dtype)


SHIFTED = quantized._shifted


@pytest.mark.parametrize(
    ("where", "name", "broken"),
    [
        (elementwise, "relu", no_relu),
        (elementwise, "_ROWS", {**elementwise._ROWS, "Sub": "add"}),
        (quantized, "_shifted", late),
        (EXECUTES, "cast", wrong_cast),
    ],
    ids=["relu", "sub", "zero point", "rounding"],
)
def test_it_finds_what_is_broken(
    where: Any, name: str, broken: object, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A fault in the compiler or in the engines."""
    change: Callable[..., None] = (
        monkeypatch.setitem if isinstance(where, dict) else monkeypatch.setattr
    )
    change(where, name, broken)
    monkeypatch.setattr(fuzz.case, "ROWS", FEW)
    assert search(400, 0, Tally(), shrink=False) is not None
    assert "fuzz.case.Wrong" in capsys.readouterr().err or name == "cast"


_ALONE = """
import fuzz.case
from clockstep_compiler.lowering import elementwise
from fuzz.case import Tally
from fuzz.graphs import search
from tests.test_fuzz import FEW

fuzz.case.ROWS = FEW
elementwise._ROWS = {**elementwise._ROWS, "Sub": "add"}
case = search(400, 0, Tally())
assert case is not None
print(len(case.model.graph.node), sum(value.size for value in case.inputs.values()))
"""


def test_what_it_finds_is_small() -> None:
    """In a process of its own: hypothesis draws constants from the modules that are loaded."""
    done = subprocess.run(
        [sys.executable, "-c", _ALONE],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    nodes, elements = map(int, done.stdout.split())
    assert nodes <= 2
    assert elements <= 20
    assert "elements are wrong" in done.stderr


def test_a_failing_case_is_saved_whole(tmp_path: Path) -> None:
    found: list[Case] = []

    @settings(max_examples=1, database=None, deadline=None, derandomize=True)
    @given(cases())
    def collect(case: Case) -> None:
        found.append(case)

    collect()
    case = found[0]
    save(case, tmp_path)
    assert onnx.load(tmp_path / "model.onnx") == case.model
    figures = machine_to_dict(load_machine(tmp_path / "machine.toml"))
    assert {k: figures[k] for k in ("lanes", "c2c")} == {
        k: machine_to_dict(case.machine)[k] for k in ("lanes", "c2c")
    }
    with np.load(tmp_path / "inputs.npz") as inputs:
        assert sorted(inputs.files) == sorted(case.inputs)
    assert "clockstep compile model.onnx" in (tmp_path / "command").read_text()


@pytest.mark.parametrize("target", TARGETS, ids=[target.name for target in TARGETS])
def test_targets(target: Target) -> None:
    """The seeds are accepted, and so is or is not what becomes of them."""
    rng = random.Random(0)
    pool = target.seeds()
    for data in pool:
        target.run(data)
    for _ in range(60):
        data = target.mutate(rng.choice(pool), rng, blind(rng))
        target.run(data)
        pool.append(data)
