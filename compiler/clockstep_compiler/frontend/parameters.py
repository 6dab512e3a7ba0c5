"""Which inputs of a model are parameters: what decides its shapes, addresses and scales.

A static schedule wants them constant, yet models, and above all onnx's tests of single operators,
often leave them to the caller. Whoever has the data, as the ONNX backend does when it first runs,
can bind them. To make one more operand a parameter, add its schema's name to the table it suits.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

from clockstep_compiler.frontend.infer import schema_of
from clockstep_compiler.frontend.structure import edges, opset_of, subgraphs

__all__ = ["INDICES", "QUANTIZATION", "STRUCTURE", "parameters_of"]

Operands = Mapping[str, tuple[str, ...]]

STRUCTURE: Operands = {
    "AffineGrid": ("size",),
    "BlackmanWindow": ("size",),
    "CenterCropPad": ("shape",),
    "Col2Im": ("image_shape", "block_shape"),
    "ConstantOfShape": ("input",),
    "CumProd": ("axis",),
    "CumSum": ("axis",),
    "DFT": ("dft_length", "axis"),
    "Dropout": ("ratio", "training_mode"),
    "Expand": ("shape",),
    "HammingWindow": ("size",),
    "HannWindow": ("size",),
    "If": ("cond",),
    "Loop": ("M", "cond"),
    "MaxUnpool": ("output_shape",),
    "MelWeightMatrix": (
        *("num_mel_bins", "dft_length", "sample_rate"),
        *("lower_edge_hertz", "upper_edge_hertz"),
    ),
    "OneHot": ("depth",),
    "Pad": ("pads", "constant_value", "axes"),
    "Range": ("start", "limit", "delta"),
    "ReduceL1": ("axes",),
    "ReduceL2": ("axes",),
    "ReduceLogSum": ("axes",),
    "ReduceLogSumExp": ("axes",),
    "ReduceMax": ("axes",),
    "ReduceMean": ("axes",),
    "ReduceMin": ("axes",),
    "ReduceProd": ("axes",),
    "ReduceSum": ("axes",),
    "ReduceSumSquare": ("axes",),
    "Reshape": ("shape",),
    "Resize": ("roi", "scales", "sizes"),
    "STFT": ("frame_step", "frame_length"),
    "Slice": ("starts", "ends", "axes", "steps"),
    "Split": ("split",),
    "SplitToSequence": ("split",),
    "Squeeze": ("axes",),
    "Tile": ("repeats",),
    "TopK": ("K",),
    "Trilu": ("k",),
    "Unsqueeze": ("axes",),
    "Upsample": ("scales",),
}
"""Shapes, axes, counts, what fills a border, and what steers control flow. An input counts, too, if
it is a vector of integers or a scalar and one of these is computed from it."""

INDICES: Operands = {
    "Compress": ("condition",),
    "GRU": ("sequence_lens",),
    "Gather": ("indices",),
    "GatherElements": ("indices",),
    "GatherND": ("indices",),
    "LSTM": ("sequence_lens",),
    "RNN": ("sequence_lens",),
    "ReverseSequence": ("sequence_lens",),
    "RoiAlign": ("batch_indices",),
    "RotaryEmbedding": ("position_ids",),
    "Scatter": ("indices",),
    "ScatterElements": ("indices",),
    "ScatterND": ("indices",),
    "SequenceAt": ("position",),
    "SequenceErase": ("position",),
    "SequenceInsert": ("position",),
    "TensorScatter": ("write_indices",),
}
"""Which elements are taken or written."""

QUANTIZATION: Operands = {
    "ConvInteger": ("x_zero_point", "w_zero_point"),
    "DequantizeLinear": ("x_scale", "x_zero_point"),
    "MatMulInteger": ("a_zero_point", "b_zero_point"),
    "QLinearConv": (
        *("x_scale", "x_zero_point", "w_scale", "w_zero_point"),
        *("y_scale", "y_zero_point"),
    ),
    "QLinearMatMul": (
        *("a_scale", "a_zero_point", "b_scale", "b_zero_point"),
        *("y_scale", "y_zero_point"),
    ),
    "QuantizeLinear": ("y_scale", "y_zero_point"),
}
"""Scales and zero points."""

_INTEGERS = (TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL)
_OF_SHAPES_ALONE = ("Shape", "Size")
"""Operators to whose results the values of their inputs do not matter."""


def parameters_of(model: ModelProto) -> tuple[str, ...]:
    """The graph inputs without an initializer that are parameters, in the order of the graph.

    An input that is also a data operand of some node is one nevertheless: it has one value.
    """
    nodes, opset = _all_nodes(list(model.graph.node)), opset_of(model)
    structure = {name for node in nodes for name in _operands(node, STRUCTURE, opset)}
    direct = {
        name
        for node in nodes
        for table in (INDICES, QUANTIZATION)
        for name in _operands(node, table, opset)
    }
    behind = _behind(nodes, structure)
    constants = {tensor.name for tensor in model.graph.initializer}
    return tuple(
        value.name
        for value in model.graph.input
        if value.name not in constants
        and (
            value.name in direct | structure
            or (value.name in behind and _could_be_a_parameter(value))
        )
    )


def _operands(node: NodeProto, table: Operands, opset: int) -> list[str]:
    """The values at the node's operands that `table` names."""
    wanted = table.get(node.op_type, ()) if node.domain in ("", "ai.onnx") else ()
    schema = schema_of(NodeProto(op_type=node.op_type), opset) if wanted else None
    if schema is None:
        return []
    pairs = zip(schema.inputs, node.input, strict=False)
    return [name for formal, name in pairs if name and formal.name in wanted]


def _behind(nodes: list[NodeProto], names: set[str]) -> set[str]:
    """Everything that `names` are computed from, the values of shapes left aside."""
    makers = {name: node for node in nodes for name in node.output if name}
    found: set[str] = set()
    waiting = sorted(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        maker = makers.get(name)
        if maker is not None and maker.op_type not in _OF_SHAPES_ALONE:
            waiting.extend(filter(None, edges(maker).inputs))
    return found


def _could_be_a_parameter(value: ValueInfoProto) -> bool:
    """Whether the input has the form of a shape, a list of axes or a count."""
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        return False
    rank = len(kind.shape.dim)
    return rank == 0 or (rank == 1 and kind.elem_type in _INTEGERS)


def _all_nodes(nodes: list[NodeProto]) -> list[NodeProto]:
    """The nodes and those of their subgraphs; names in there shadow nothing in a valid model."""
    inner = [part for node in nodes for graph in subgraphs(node) for part in graph.node]
    return [*nodes, *_all_nodes(inner)] if inner else nodes
