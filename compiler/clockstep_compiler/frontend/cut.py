"""Cut a model at some of its tensors, so that each part can be computed from given values.

Before: `x -> f -> h -> g -> y`. Cut at `h`: inputs `x` and `cut:h`, outputs `h` = f(x) and
`y` = g(`cut:h`). A layer of a cut model depends on what is fed to it and not on the layers before.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, ValueInfoProto, helper

from clockstep_compiler.frontend.load import Model, parse

__all__ = ["CUT", "cut_model"]

CUT = "cut:"
"""What the name of a new input begins with."""


def cut_model(
    source: Model, tensors: Mapping[str, tuple[str, tuple[int, ...]]]
) -> tuple[bytes, tuple[str, ...]]:
    """The model, cut at those of `tensors` that its nodes make, and the names of these.

    `tensors` maps names to numpy dtype names and shapes. External data stays where it is, named
    relative to the file. Raises `UsageError` or `MalformedFile` as `load` does.
    """
    original, _ = parse(source)
    model = ModelProto()
    model.CopyFrom(original)
    graph = model.graph
    made = {name for node in graph.node for name in node.output}
    names = tuple(name for name in tensors if name in made)
    for name in names:
        dtype, shape = tensors[name]
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        graph.input.append(helper.make_tensor_value_info(CUT + name, kind, shape))
    chosen = frozenset(names)
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in chosen:
                node.input[i] = CUT + name
    known = {output.name for output in graph.output}
    graph.output.extend(ValueInfoProto(name=name) for name in names if name not in known)
    return model.SerializeToString(), names
