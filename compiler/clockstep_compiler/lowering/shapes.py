"""Operators that only rename elements: free where rows stay rows, a relayout where they do not."""

from __future__ import annotations

import numpy as np

from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.lower import Lowering, lowers, matrix_shape
from clockstep_compiler.steps import Relayout

__all__: list[str] = []


@lowers("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(state: Lowering, node: Node) -> None:
    """The same elements in row-major order under another shape."""
    out = node.outputs[0]
    shape = state.shape(out)
    rows, columns = matrix_shape(shape)
    value = state.store(node.inputs[0])
    if (value.rows, value.columns) == (rows, columns) or 0 in shape:
        state.define_value(out, value)
    elif value.origin == "input" and value.axes == tuple(sorted(value.axes)):
        state.define_value(
            out, state.input_view(value.source, value.axes, rows, columns, value.type)
        )
    elif value.origin == "const":
        assert value.data is not None
        data = np.ascontiguousarray(value.data.reshape(rows, columns))
        state.define_value(out, state.constant_value(out, data))
    else:
        result = state.new_value(out, rows, columns, value.type)
        state.steps.append(Relayout(result, value, (state.node,)))
        state.define_value(out, result)
