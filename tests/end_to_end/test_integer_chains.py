"""Chains of operators on integers of all widths: exact, or refused, never wrapped in silence.

Integers of 64 bits are kept in 32; what results can be, and what inputs are limited to, follows
from every operator's ranges, so a range that one of them gets wrong shows here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, helper
from onnx.reference import ReferenceEvaluator

from clockstep_isa.diagnostics import UnsupportedModel, UsageError
from tests.support.endtoend import run_checked
from tests.support.machines import MACHINES
from tests.support.models import build

Array = NDArray[Any]
TINY = MACHINES["tiny"]
SHAPE = (2, 5)
TYPES = ("int64", "uint64", "int32", "uint32")

TWO = ("Add", "Sub", "Mul", "Max", "Min", "BitwiseAnd", "BitwiseXor", "Div", "Mod", "Less")
ONE = ("Neg", "Abs", "Sign", "BitwiseNot", "Relu", "Transpose", "CumSum", "ReduceSum", "ReduceMax")
OTHERS = ("Where", "Clip", "Cast")


class _Chain:
    """A graph that grows: tensors of one shape by name, and their types."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.feeds: dict[str, Array] = {}
        self.constants: dict[str, Array] = {}
        self.nodes: list[NodeProto] = []
        self.types: dict[str, str] = {}
        for k in range(self.rng.integers(1, 4)):
            dtype, reach = str(self.rng.choice(TYPES)), int(self.rng.choice([3, 100, 2000]))
            low = 0 if dtype.startswith("u") else -reach
            self.feeds[f"x{k}"] = self.rng.integers(low, reach, SHAPE, endpoint=True).astype(dtype)
            self.types[f"x{k}"] = dtype

    def constant(self, value: Any, dtype: str) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        return name

    def operand(self, dtype: str) -> str:
        """Another tensor of that type, or a number."""
        same = [name for name, kind in self.types.items() if kind == dtype]
        if self.rng.random() < 0.6:
            return str(self.rng.choice(same))
        return self.constant(
            self.rng.choice([0, 1, 2, 7] if dtype[0] == "u" else [0, 1, -5]), dtype
        )

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def grow(self) -> None:
        """One operator more."""
        name = str(self.rng.choice(list(self.types)))
        dtype = self.types[name]
        op = "Cast" if dtype == "bool" else str(self.rng.choice([*TWO, *ONE, *OTHERS]))
        if op in ("Neg", "Relu") and dtype.startswith("u"):
            op = "Abs"
        made, kind = self._made(op, name, dtype)
        self.types[made] = kind

    def _made(self, op: str, name: str, dtype: str) -> tuple[str, str]:
        if op in ("Div", "Mod"):
            return self.node(op, name, self.constant(self.rng.choice([1, 2, 7]), dtype)), dtype
        if op in TWO:
            return self.node(op, name, self.operand(dtype)), "bool" if op == "Less" else dtype
        if op == "Where":
            other = self.operand(dtype)
            return self.node(op, self.node("Less", name, other), other, name), dtype
        if op == "Clip":
            most = self.rng.choice([5, 2**40] if dtype.endswith("64") else [5])
            return self.node(op, name, *(self.constant(n, dtype) for n in (1, most))), dtype
        if op == "Cast":
            kind = str(self.rng.choice([*TYPES, "bool"]))
            to = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
            return self.node(op, name, to=to), kind
        if op == "Transpose":
            return self.node(op, self.node(op, name)), dtype
        if op == "CumSum":
            return self.node(op, name, self.constant(1, "int64")), dtype
        if op.startswith("Reduce"):
            less = self.node(op, name, self.constant([1], "int64"))
            return self.node("Expand", less, self.constant(SHAPE, "int64")), dtype
        return self.node(op, name), dtype


@pytest.mark.parametrize("seed", range(48))
def test_chains(seed: int) -> None:
    chain = _Chain(seed)
    for _ in range(chain.rng.integers(2, 8)):
        chain.grow()
    last = list(chain.types)[-1]
    used = {name for node in chain.nodes for name in node.input}
    feeds = {name: x for name, x in chain.feeds.items() if name in used}
    model = build(
        chain.nodes,
        {name: (x.dtype.name, SHAPE) for name, x in feeds.items()},
        {last: (chain.types[last], SHAPE)},
        chain.constants,
        22,
    )
    with np.errstate(all="ignore"):
        found: list[Any] = list(ReferenceEvaluator(model).run([last], feeds))
    try:
        have = run_checked(model, TINY, feeds, precision="exact").outputs[last]
    except (UnsupportedModel, UsageError) as error:
        if error.diagnostic.code not in ("integer-range", "input-range"):
            raise
        return
    np.testing.assert_array_equal(have, np.asarray(found[0]))
    assert have.dtype == chain.types[last]
