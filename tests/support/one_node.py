"""One node against onnxruntime, in exact precision: what tests of composed operators do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

from clockstep_isa import Machine
from tests.support.endtoend import assert_close, expected, run_checked
from tests.support.machines import MACHINES

__all__ = ["assert_like_onnxruntime", "assert_same_elements", "contrib", "node_of", "one_node"]

Array = NDArray[np.generic]

OPSET = 24


def node_of(
    op: str, operands: str, outputs: str = "y", domain: str = "", **given: Any
) -> NodeProto:
    """A node; operands and outputs are names with spaces between, "-" is none."""
    inputs, results = (["" if n == "-" else n for n in t.split()] for t in (operands, outputs))
    return helper.make_node(op, inputs, results, domain=domain, **given)


def contrib(op: str, operands: str, outputs: str = "y", **given: Any) -> NodeProto:
    """A node of onnxruntime's own domain."""
    return node_of(op, operands, outputs, "com.microsoft", **given)


def one_node(
    node: NodeProto,
    inputs: Mapping[str, Array],
    constants: Mapping[str, Array] | None = None,
    kinds: Mapping[str, str] | None = None,
    opset: int = OPSET,
) -> ModelProto:
    """A model of a node; its outputs are float32 unless `kinds` says otherwise."""

    def info(name: str, dtype: str, shape: tuple[int, ...] | None) -> ValueInfoProto:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        [node],
        "one node",
        [info(name, value.dtype.name, value.shape) for name, value in inputs.items()],
        [info(n, (kinds or {}).get(n, "float32"), None) for n in node.output if n],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def assert_like_onnxruntime(
    node: NodeProto,
    inputs: Mapping[str, Array],
    constants: Mapping[str, Array] | None = None,
    *,
    want: Mapping[str, Array] | None = None,
    kinds: Mapping[str, str] | None = None,
    opset: int = OPSET,
    rtol: float = 3e-6,
    machine: Machine = MACHINES["tiny"],
) -> None:
    """Every output within `rtol` of its range of what onnxruntime, or `want`, says."""
    model = one_node(node, inputs, constants, kinds, opset)
    want = want or expected(model, inputs)
    run = run_checked(model, machine, inputs, precision="exact")
    assert_close(run.outputs, want, rtol)


def assert_same_elements(
    op: str,
    inputs: Mapping[str, Array],
    constant: tuple[str, ...] = (),
    *,
    bits: bool = False,
    **attributes: Any,
) -> None:
    """Equal to what onnxruntime makes of it, to the `bit`s of any NaN and zero if that is asked.

    The inputs named `constant` are constants; the result has the first one's type.
    """
    node = node_of(op, " ".join(inputs), **attributes)
    known = {name: inputs[name] for name in constant}
    free = {name: value for name, value in inputs.items() if name not in constant}
    kind = next(iter(inputs.values())).dtype.name
    model = one_node(node, free, known, {"y": kind}, opset=18)
    want = expected(model, free)["y"]
    have = run_checked(model, MACHINES["tiny"], free, precision="exact").outputs["y"]
    assert (have.shape, have.dtype) == (want.shape, want.dtype)
    np.testing.assert_array_equal(have, want)
    assert not bits or have.tobytes() == want.tobytes()
