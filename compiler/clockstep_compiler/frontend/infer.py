"""Types of one node's outputs from the types of its inputs, by onnx's own inference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import NodeProto, TypeProto, numpy_helper
from onnx.defs import OpSchema
from onnx.shape_inference import infer_node_outputs

from clockstep_compiler.frontend.messages import sentence
from clockstep_compiler.frontend.tensors import Array, dtype_name, numpy_dtype
from clockstep_compiler.graph import Tensor

__all__ = ["Inferred", "Mismatch", "infer", "schema_of", "static", "type_proto"]

_DATA_ELEMENTS = 4096
"""Inference looks at values of shapes, axes and the like, which are never longer."""


_AS_FIRST_INPUT = ("GroupNormalization", "MeanVarianceNormalization")
"""Operators without inference in onnx, which defines them by functions: shape and type stay."""


class Mismatch(Exception):
    """The inputs do not fit the operator: the message is a sentence."""


@dataclass(frozen=True, slots=True)
class Inferred:
    """An output's type; `shape` None where it depends on data, `dtype` None if no dense tensor."""

    name: str
    dtype: str | None
    shape: tuple[int, ...] | None


def schema_of(node: NodeProto, opset: int) -> OpSchema | None:
    """The operator's schema, or None if onnx does not define it."""
    if not opset or not onnx.defs.has(node.op_type, opset, node.domain):
        return None
    return onnx.defs.get_schema(node.op_type, opset, node.domain)


def type_proto(tensor: Tensor) -> TypeProto:
    """The inverse of `static`."""
    elem = onnx.helper.np_dtype_to_tensor_dtype(numpy_dtype(tensor.dtype))
    return onnx.helper.make_tensor_type_proto(elem, list(tensor.shape))


def infer(
    node: NodeProto,
    schema: OpSchema,
    opsets: Mapping[str, int],
    types: Mapping[str, Tensor],
    constants: Mapping[str, Array],
) -> tuple[Inferred, ...]:
    """One row for each named output. Raises `Mismatch` if the inputs do not fit the operator."""
    _check_types(node, schema, types)
    names = dict.fromkeys(filter(None, node.input))
    data = {
        name: numpy_helper.from_array(constants[name], name)
        for name in names
        if name in constants and constants[name].size <= _DATA_ELEMENTS
    }
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    kinds = {name: type_proto(types[name]) for name in names}
    try:
        found = infer_node_outputs(schema, node, kinds, data, None, imports)
    except Exception as error:  # InferenceError, and whatever else the binding lets through
        shapes = ", ".join(f"{name} {types[name].shape}" for name in names)
        problem = sentence(error).removeprefix("[ShapeInferenceError]").strip()
        raise Mismatch(f"{problem}; its inputs are {shapes}") from None
    if not node.domain and node.op_type in _AS_FIRST_INPUT:
        found = {node.output[0]: kinds[node.input[0]]}
    unknown = TypeProto()
    outputs = tuple(static(name, found.get(name, unknown)) for name in node.output if name)
    _check_shapes(node, types, outputs)
    return outputs


def static(name: str, kind: TypeProto) -> Inferred:
    """Read a type: the shape only if all its dimensions are numbers."""
    if not kind.HasField("tensor_type"):
        return Inferred(name, None, None)
    dtype = dtype_name(kind.tensor_type.elem_type)
    if not kind.tensor_type.HasField("shape"):
        return Inferred(name, dtype, None)
    dims = kind.tensor_type.shape.dim
    if any(not dim.HasField("dim_value") or dim.dim_value < 0 for dim in dims):
        return Inferred(name, dtype, None)
    return Inferred(name, dtype, tuple(dim.dim_value for dim in dims))


def _check_shapes(
    node: NodeProto, types: Mapping[str, Tensor], outputs: tuple[Inferred, ...]
) -> None:
    """What inference passes over: the bias of a Gemm, the rank of a convolution's weights."""
    shapes = [types[name].shape if name in types else None for name in node.input]
    if node.op_type == "Gemm" and len(shapes) > 2 and shapes[2] is not None:
        pairs = zip(reversed(shapes[2]), reversed(outputs[0].shape or ()), strict=False)
        if len(shapes[2]) > 2 or any(have not in (1, want) for have, want in pairs):
            raise Mismatch(f"a bias of shape {shapes[2]} for a result {outputs[0].shape}")
    ranks = [len(shape) for shape in shapes[:2] if shape is not None]
    if node.op_type in ("Conv", "ConvTranspose", "ConvInteger") and len(frozenset(ranks)) > 1:
        raise Mismatch(f"weights of shape {shapes[1]} for an image {shapes[0]}")


def _check_types(node: NodeProto, schema: OpSchema, types: Mapping[str, Tensor]) -> None:
    """Inference trusts element types; the schema says which are allowed and which must agree."""
    bound: dict[str, str] = {}
    for index, name in enumerate(node.input):
        formal = schema.inputs[min(index, len(schema.inputs) - 1)] if schema.inputs else None
        if not name or formal is None:
            continue
        elem = onnx.helper.np_dtype_to_tensor_dtype(numpy_dtype(types[name].dtype))
        kind = f"tensor({onnx.TensorProto.DataType.Name(elem).lower()})"
        if formal.types and kind not in formal.types:
            raise Mismatch(f"input {formal.name!r} ({name}) cannot be {kind}")
        variadic = formal.option == OpSchema.FormalParameterOption.Variadic
        agrees = not variadic or formal.is_homogeneous
        if agrees and bound.setdefault(formal.type_str, kind) != kind:
            raise Mismatch(
                f"input {formal.name!r} ({name}) is {kind}, not {bound[formal.type_str]}"
            )
