"""The operators with a lowering of their own; everything else is inlined, folded or refused."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BY_NAME", "OPERATORS", "Operator"]


@dataclass(frozen=True, slots=True)
class Operator:
    """One ONNX operator: its newest opset we know, element types, and what is refused."""

    name: str
    types: str
    limits: str = ""


_ARITHMETIC = "float16, float32, float64, int8, uint8, int16, uint16, int32"
_FLOAT = "float16, float32, float64"

OPERATORS: tuple[Operator, ...] = (
    Operator("Abs", _ARITHMETIC),
    Operator("Add", _ARITHMETIC),
    Operator("Cast", f"{_ARITHMETIC}, bool, int64 as 32-bit values"),
    Operator("Clip", _ARITHMETIC, "min and max constant"),
    Operator("Constant", "any", "folded"),
    Operator("DequantizeLinear", "int8, uint8, int32", "scale and zero point constant"),
    Operator("Flatten", "any"),
    Operator("Gemm", _FLOAT),
    Operator("Identity", "any"),
    Operator("LeakyRelu", _FLOAT),
    Operator("MatMul", _FLOAT),
    Operator("MatMulInteger", "int8, uint8", "zero points constant"),
    Operator("Max", _ARITHMETIC),
    Operator("Min", _ARITHMETIC),
    Operator("Mul", _ARITHMETIC),
    Operator("Neg", _ARITHMETIC),
    Operator("QLinearMatMul", "int8, uint8", "scales and zero points constant"),
    Operator("QuantizeLinear", "float to int8, uint8", "scale and zero point constant"),
    Operator("Relu", _ARITHMETIC),
    Operator("Reshape", "any", "shape constant"),
    Operator("Sigmoid", _FLOAT),
    Operator("Squeeze", "any", "axes constant"),
    Operator("Sub", _ARITHMETIC),
    Operator("Tanh", _FLOAT),
    Operator("Unsqueeze", "any", "axes constant"),
)

BY_NAME = {row.name: row for row in OPERATORS}
