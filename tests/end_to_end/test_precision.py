"""`--precision`: what is multiplied in int8, what in fp16, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from clockstep_compiler import Options, compile_model
from clockstep_isa import load_machine
from clockstep_isa.diagnostics import UnsupportedModel
from clockstep_isa.table import BY_NAME, Type
from tests.support.models import mlp
from tests.support.quantized import qdq_mlp

TINY = load_machine("tiny")


def products(precision: str) -> set[Type]:
    """Element types of the products in the program of a small QDQ model."""
    model = qdq_mlp(np.random.default_rng(0), (8, 12, 4), 3)
    code = compile_model(model, TINY, Options(precision=precision)).code
    row = BY_NAME["abc"]
    kinds = code.args[code.opcode == row.opcode, row.field("type")]
    return {Type(int(kind)) for kind in kinds}


@pytest.mark.parametrize(
    ("precision", "kind"), [("auto", Type.I8), ("int8", Type.I8), ("fp16", Type.F16)]
)
def test_products_of_a_quantized_model(precision: str, kind: Type) -> None:
    assert products(precision) == {kind}


def test_int8_refuses_products_of_floats() -> None:
    model = mlp(np.random.default_rng(0), (8, 4), 3)
    with pytest.raises(UnsupportedModel, match="element-type"):
        compile_model(model, TINY, Options(precision="int8"))
