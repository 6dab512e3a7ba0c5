"""The operators with a lowering of their own; everything else is inlined, folded or refused."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BY_NAME", "OPERATORS", "Operator"]


@dataclass(frozen=True, slots=True)
class Operator:
    """One ONNX operator: its element types, and within which limits it is supported.

    `moved`: it is supported only where it but moves elements, to places known on import, and so
    becomes a `Move`.
    """

    name: str
    types: str
    limits: str = ""
    moved: bool = False

    @property
    def problem(self) -> str:
        """Why a node of this operator that came to have no lowering is refused."""
        least = f"only with {self.limits}" if self.limits else "not in this form"
        return f"operator {self.name} is supported {least}"


_ARITHMETIC = "float16, float32, float64, int8, uint8, int16, uint16, int32"
_FLOAT = "float16, float32, float64"

OPERATORS: tuple[Operator, ...] = (
    Operator("Abs", _ARITHMETIC),
    Operator("Add", _ARITHMETIC),
    Operator("AveragePool", _FLOAT),
    Operator("BatchNormalization", _FLOAT, "not in training mode"),
    Operator("Cast", f"{_ARITHMETIC}, bool, int64 as 32-bit values"),
    Operator("CenterCropPad", "any", "shape constant", moved=True),
    Operator("Clip", _ARITHMETIC),
    Operator("Compress", "any", "condition constant", moved=True),
    Operator("Concat", "any", moved=True),
    Operator("Constant", "any", "folded"),
    Operator("Conv", _FLOAT),
    Operator("ConvInteger", "int8, uint8", "weights and zero points constant"),
    Operator("ConvTranspose", _FLOAT),
    Operator("DepthToSpace", "any", moved=True),
    Operator("DequantizeLinear", "int8, uint8, int32", "scale and zero point constant"),
    Operator("Expand", "any", "shape constant", moved=True),
    Operator("Flatten", "any"),
    Operator("Gather", "any", "indices constant", moved=True),
    Operator("GatherElements", "any", "indices constant", moved=True),
    Operator("GatherND", "any", "indices constant", moved=True),
    Operator("Gemm", _FLOAT),
    Operator("GlobalAveragePool", _FLOAT, "a spatial axis at least"),
    Operator("GlobalLpPool", _FLOAT, "p 1 or 2"),
    Operator("GlobalMaxPool", _FLOAT, "a spatial axis at least"),
    Operator("GroupNormalization", _FLOAT),
    Operator("Identity", "any"),
    Operator("InstanceNormalization", _FLOAT),
    Operator("LayerNormalization", _FLOAT),
    Operator("LeakyRelu", _FLOAT),
    Operator("LpNormalization", _FLOAT, "p 1 or 2"),
    Operator("LpPool", _FLOAT, "p 1 or 2"),
    Operator("MatMul", _FLOAT),
    Operator("MatMulInteger", "int8, uint8", "zero points constant"),
    Operator("Max", _ARITHMETIC),
    Operator("MaxPool", f"{_FLOAT}, int8, uint8", "without indices"),
    Operator("MeanVarianceNormalization", _FLOAT),
    Operator("Min", _ARITHMETIC),
    Operator("Mul", _ARITHMETIC),
    Operator("Neg", _ARITHMETIC),
    Operator("Pad", "any", "pads and axes constant", moved=True),
    Operator(
        "QLinearConv", "int8, uint8", "weights, scales and zero points constant, one for the image"
    ),
    Operator("QLinearMatMul", "int8, uint8", "scales and zero points constant"),
    Operator("QuantizeLinear", "float to int8, uint8", "scale and zero point constant"),
    Operator("RMSNormalization", _FLOAT),
    Operator("ReduceL1", _ARITHMETIC, "axes constant"),
    Operator("ReduceL2", _FLOAT, "axes constant"),
    Operator("ReduceMax", f"{_ARITHMETIC}, bool, int64 as 32-bit values", "axes constant"),
    Operator("ReduceMean", _FLOAT, "axes constant"),
    Operator("ReduceMin", f"{_ARITHMETIC}, bool, int64 as 32-bit values", "axes constant"),
    Operator("ReduceProd", _ARITHMETIC, "axes constant"),
    Operator("ReduceSum", _ARITHMETIC, "axes constant"),
    Operator("ReduceSumSquare", _ARITHMETIC, "axes constant"),
    Operator("Relu", _ARITHMETIC),
    Operator("Reshape", "any", "shape constant"),
    Operator("Resize", "any", "mode nearest; roi, scales and sizes constant", moved=True),
    Operator("ReverseSequence", "any", "sequence lengths constant", moved=True),
    Operator("ScatterElements", "any", "indices constant, no reduction", moved=True),
    Operator("ScatterND", "any", "indices constant, no reduction", moved=True),
    Operator("Sigmoid", _FLOAT),
    Operator("Slice", "any", "starts, ends, axes and steps constant", moved=True),
    Operator("Softmax", _FLOAT),
    Operator("SpaceToDepth", "any", moved=True),
    Operator("Split", "any", "split constant", moved=True),
    Operator("Squeeze", "any", "axes constant"),
    Operator("Sub", _ARITHMETIC),
    Operator("Tanh", _FLOAT),
    Operator("TensorScatter", "any", "write indices constant", moved=True),
    Operator("Tile", "any", "repeats constant", moved=True),
    Operator("Transpose", "any", moved=True),
    Operator("Trilu", "any", "k constant", moved=True),
    Operator("Unsqueeze", "any", "axes constant"),
    Operator("Where", "any", "condition constant", moved=True),
)

BY_NAME = {row.name: row for row in OPERATORS}
