"""Every ONNX operator that only moves elements, from the model to the machine's own result."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from clockstep_compiler import Options, compile_model
from clockstep_isa import load_machine
from clockstep_runtime import Session
from tests.support.moving import CASES, Case

Array = NDArray[np.generic]


def _model(case: Case, dtype: str) -> helper.ModelProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [case.node],
        "case",
        [helper.make_tensor_value_info(n, kind, shape) for n, shape in case.data.items()],
        [helper.make_tensor_value_info(name, kind, None) for name in case.node.output],
        [numpy_helper.from_array(array, name) for name, array in case.constants.items()],
    )
    opsets = [helper.make_opsetid("", case.opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize("op", sorted(set(CASES) - {"GatherElements"}))
@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(draw=st.data())
def test_the_machine_moves_what_the_operator_does(op: str, draw: st.DataObject) -> None:
    case = draw.draw(CASES[op])
    dtype = draw.draw(st.sampled_from(("float32", "int8")))
    assume(case.opset >= 10)  # the others are lifted by onnx's converter, not by us
    rng = np.random.default_rng(draw.draw(st.integers(0, 99)))
    data = {n: rng.integers(-99, 99, shape).astype(dtype) for n, shape in case.data.items()}
    model = _model(case, dtype)
    wanted = ReferenceEvaluator(model).run(None, data)
    program = compile_model(model, load_machine("tiny"), Options(effort="fast"))
    outputs = Session(program).run(data)
    for name, value in zip(case.node.output, wanted, strict=True):
        assert outputs[name].dtype == value.dtype
        np.testing.assert_array_equal(outputs[name], value)
