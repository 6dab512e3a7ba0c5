"""Einsum: products, sums, diagonals, ellipses, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, helper

from clockstep_compiler import Options, compile_model
from clockstep_isa.diagnostics import ClockstepError
from tests.support.endtoend import run_checked
from tests.support.machines import MACHINES
from tests.support.models import build

TINY = MACHINES["tiny"]
Shape = tuple[int, ...]


def einsum(equation: str, shapes: tuple[Shape, ...], out: Shape, dtype: str) -> ModelProto:
    names = [f"x{i}" for i in range(len(shapes))]
    node = helper.make_node("Einsum", names, ["y"], equation=equation)
    kinds = {name: (dtype, shape) for name, shape in zip(names, shapes, strict=True)}
    return build([node], kinds, {"y": (dtype, out)})


CASES: list[tuple[str, tuple[Shape, ...]]] = [
    ("ij->ji", ((3, 5),)),
    ("ij->i", ((3, 5),)),
    ("ij->", ((3, 5),)),
    ("ii->i", ((5, 5),)),
    ("ii", ((5, 5),)),
    ("iji->j", ((3, 4, 3),)),
    ("iii->i", ((3, 3, 3),)),
    ("...ii->...i", ((2, 3, 3),)),
    ("i,i", ((7,), (7,))),
    ("i,i->i", ((7,), (7,))),
    ("i,j->ij", ((3,), (5,))),
    ("ij,jk->ik", ((3, 5), (5, 4))),
    ("ij,jk", ((3, 5), (5, 4))),
    ("ji,kj->ki", ((5, 3), (4, 5))),
    ("bij,bjk->bik", ((2, 3, 5), (2, 5, 4))),
    ("...ij,...jk->...ik", ((2, 3, 5), (2, 5, 4))),
    ("...ij,...jk->...ik", ((2, 3, 5), (5, 4))),
    ("...i,...i->...", ((2, 1, 5), (3, 5))),
    ("bhqd,bhkd->bhqk", ((2, 2, 3, 4), (2, 2, 5, 4))),
    ("bhqk,bkhd->bqhd", ((2, 2, 3, 5), (2, 5, 2, 4))),
    ("ij,kl->jl", ((3, 5), (2, 4))),
    ("i j , j k -> k i", ((3, 1), (5, 4))),
    ("ij,jk,kl->il", ((3, 4), (4, 5), (5, 2))),
    ("ijk,ilm,njm,nlk,abc->", ((2, 3, 2), (2, 2, 3), (2, 3, 3), (2, 2, 2), (1, 2, 1))),
]


@pytest.mark.parametrize(("equation", "shapes"), CASES)
def test_equations(equation: str, shapes: tuple[Shape, ...]) -> None:
    """Small integers: no product or sum rounds, so that both types are exact."""
    for dtype in ("float32", "int32"):
        rng = np.random.default_rng(0)
        values = [rng.integers(-3, 4, shape).astype(dtype) for shape in shapes]
        want = np.einsum(equation.replace(" ", ""), *values)
        model = einsum(equation, shapes, want.shape, dtype)
        inputs = {f"x{i}": value for i, value in enumerate(values)}
        np.testing.assert_array_equal(run_checked(model, TINY, inputs).outputs["y"], want)


@pytest.mark.parametrize(
    ("equation", "shapes"), [("ij,jk->ik", ((3, 5), (4, 4))), ("ij->ji", ((3, 5, 2),))]
)
def test_what_does_not_fit(equation: str, shapes: tuple[Shape, ...]) -> None:
    model = einsum(equation, shapes, (3, 4), "float32")
    with pytest.raises(ClockstepError):
        compile_model(model.SerializeToString(), TINY, Options())
