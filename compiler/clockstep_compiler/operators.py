"""The operators with a lowering of their own; everything else is inlined, folded or refused."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BY_NAME", "OPERATORS", "Operator", "full_name"]


@dataclass(frozen=True, slots=True)
class Operator:
    """One ONNX operator, by its `full_name`: element types and limits.

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


_INTEGER = "int8, uint8, int16, uint16, int32, uint32, int64 and uint64 as 32-bit values"
_ARITHMETIC = f"float16, bfloat16, float32, float64, {_INTEGER}"
_ANY = f"{_ARITHMETIC}, bool"
_EVERY = f"{_ANY}; float8 and float4 types, int4, uint4, int2, uint2"
_SIGNED = "float16, bfloat16, float32, float64, int8, int16, int32, int64 as 32-bit values"
_FLOAT = "float16, bfloat16, float32, float64"
_REDUCED = f"{_FLOAT}, {_INTEGER}"
_QUANTA = "integers of 2 to 16 bits, int32, float4, float8"
_IN_RANGE = "64-bit results known to fit 32 bits, for which inputs may be limited"


def _within(units: str) -> str:
    """The error of a function in f32, before it is stored."""
    return f"in f32 within {units}"


OPERATORS: tuple[Operator, ...] = (
    Operator("Abs", _ARITHMETIC, _IN_RANGE),
    Operator("Acos", _FLOAT, _within("4 units")),
    Operator("Acosh", _FLOAT, _within("4 units")),
    Operator("Add", _ARITHMETIC, _IN_RANGE),
    Operator("And", "bool"),
    Operator("ArgMax", _REDUCED),
    Operator("ArgMin", _REDUCED),
    Operator("Asin", _FLOAT, _within("4 units")),
    Operator("Asinh", _FLOAT, _within("3 units")),
    Operator("Atan", _FLOAT, _within("3 units")),
    Operator("Atanh", _FLOAT, _within("5 units")),
    Operator("Attention", _FLOAT),
    Operator("AveragePool", _FLOAT),
    Operator("BatchNormalization", _FLOAT),
    Operator(
        "BitCast",
        f"{_INTEGER}, bool, float16, float32",
        "between types of the same width; not float64",
    ),
    Operator("BitShift", _INTEGER, _IN_RANGE),
    Operator("BitwiseAnd", _INTEGER),
    Operator("BitwiseNot", _INTEGER),
    Operator("BitwiseOr", _INTEGER),
    Operator("BitwiseXor", _INTEGER),
    Operator("Cast", _EVERY, _IN_RANGE),
    Operator("CastLike", _EVERY, _IN_RANGE),
    Operator("Ceil", _FLOAT),
    Operator("Celu", _FLOAT, _within("6 units")),
    Operator("CenterCropPad", "any", "shape constant", moved=True),
    Operator("Clip", _ARITHMETIC),
    Operator("Col2Im", _FLOAT),
    Operator("Compress", "any", "condition constant", moved=True),
    Operator("Concat", "any", moved=True),
    Operator("ConcatFromSequence", "any"),
    Operator("Constant", "any", "folded"),
    Operator("Conv", _FLOAT),
    Operator("ConvInteger", "int8, uint8"),
    Operator("ConvTranspose", _FLOAT),
    Operator("Cos", _FLOAT, _within("2**-23") + "; NaN beyond 131072"),
    Operator("Cosh", _FLOAT, _within("2 units")),
    Operator("CumProd", f"{_FLOAT}, int32", "axis constant"),
    Operator(
        "CumSum",
        f"{_FLOAT}, int32, uint32, int64 and uint64 as 32-bit values",
        f"axis constant; {_IN_RANGE}",
    ),
    Operator("DFT", _FLOAT, "length and axis constant; inverse to real numbers only"),
    Operator("DeformConv", _FLOAT, "two spatial axes"),
    Operator("DepthToSpace", "any", moved=True),
    Operator("DequantizeLinear", _QUANTA),
    Operator("Det", _FLOAT, "at most 8 rows"),
    Operator("Div", _ARITHMETIC, _within("0.51 units, 2 below 2**-100") + f"; {_IN_RANGE}"),
    Operator("DynamicQuantizeLinear", "float32"),
    Operator("Einsum", f"{_FLOAT}, int32"),
    Operator("Elu", _FLOAT, _within("5 units")),
    Operator("Equal", _ANY),
    Operator("Erf", _FLOAT, _within("3 units")),
    Operator("Exp", _FLOAT, _within("1 unit")),
    Operator("Expand", "any", "shape constant", moved=True),
    Operator("EyeLike", "any", "folded"),
    Operator("Flatten", "any"),
    Operator("Floor", _FLOAT),
    Operator("GRU", _FLOAT),
    Operator("Gather", "any"),
    Operator("GatherElements", "any"),
    Operator("GatherND", "any"),
    Operator("Gelu", _FLOAT),
    Operator("Gemm", _FLOAT),
    Operator("GlobalAveragePool", _FLOAT, "a spatial axis at least"),
    Operator("GlobalLpPool", _FLOAT, "p 1 to 16, roots within 16 units"),
    Operator("GlobalMaxPool", _FLOAT, "a spatial axis at least"),
    Operator("Greater", _ARITHMETIC),
    Operator("GreaterOrEqual", _ARITHMETIC),
    Operator("GridSample", _FLOAT),
    Operator("GroupNormalization", _FLOAT),
    Operator("HardSigmoid", _FLOAT),
    Operator("HardSwish", _FLOAT),
    Operator("Hardmax", _FLOAT),
    Operator("Identity", "any"),
    Operator("If", "any", "condition constant, or both branches of equal shapes"),
    Operator("InstanceNormalization", _FLOAT),
    Operator("IsInf", _FLOAT),
    Operator("IsNaN", _FLOAT),
    Operator("LRN", _FLOAT),
    Operator("LSTM", _FLOAT),
    Operator("LayerNormalization", _FLOAT),
    Operator("LeakyRelu", _FLOAT),
    Operator("Less", _ARITHMETIC),
    Operator("LessOrEqual", _ARITHMETIC),
    Operator("Log", _FLOAT, _within("2 units")),
    Operator("LogSoftmax", _FLOAT),
    Operator("Loop", "any", "trip count constant, or condition"),
    Operator("LpNormalization", _FLOAT, "p 1 or 2"),
    Operator("LpPool", _FLOAT, "p 1 to 16, roots within 16 units"),
    Operator("MatMul", _FLOAT),
    Operator("MatMulInteger", "int8, uint8"),
    Operator("Max", _ARITHMETIC),
    Operator("MaxPool", f"{_FLOAT}, int8, uint8"),
    Operator("MaxUnpool", _FLOAT, "output_shape constant"),
    Operator("Mean", _FLOAT),
    Operator("MeanVarianceNormalization", _FLOAT),
    Operator("Min", _ARITHMETIC),
    Operator("Mish", _FLOAT, _within("8 units")),
    Operator("Mod", _ARITHMETIC, "NaN for quotients of floats from 2**42"),
    Operator("Mul", _ARITHMETIC, _IN_RANGE),
    Operator("Neg", _SIGNED, _IN_RANGE),
    Operator("NegativeLogLikelihoodLoss", _FLOAT),
    Operator("Not", "bool"),
    Operator("OneHot", "any", "depth constant"),
    Operator("OptionalGetElement", "any", "what is not optional"),
    Operator("OptionalHasElement", "any", "what is not optional"),
    Operator("Or", "bool"),
    Operator("PRelu", f"{_FLOAT}, int32"),
    Operator("Pad", "any", "pads and axes constant", moved=True),
    Operator(
        "Pow",
        f"{_FLOAT}, int32, int64 as 32-bit values; exponents: {_ARITHMETIC}",
        _within("3 + |exponent| / 8 units") + "; of integers integral, floats among them constant",
    ),
    Operator("QLinearConv", "int8, uint8"),
    Operator("QLinearMatMul", "int8, uint8"),
    Operator("QuantizeLinear", f"{_FLOAT} to {_QUANTA}"),
    Operator("RMSNormalization", _FLOAT),
    Operator("RNN", _FLOAT),
    Operator("Reciprocal", _FLOAT, _within("0.51 units, 2 below 2**-100")),
    Operator("ReduceL1", _REDUCED, f"axes constant; {_IN_RANGE}"),
    Operator("ReduceL2", _FLOAT, "axes constant"),
    Operator("ReduceLogSum", _FLOAT, "axes constant"),
    Operator("ReduceLogSumExp", _FLOAT, "axes constant"),
    Operator("ReduceMax", f"{_REDUCED}, bool", "axes constant"),
    Operator("ReduceMean", _FLOAT, "axes constant"),
    Operator("ReduceMin", f"{_REDUCED}, bool", "axes constant"),
    Operator("ReduceProd", _REDUCED, f"axes constant; {_IN_RANGE}"),
    Operator("ReduceSum", _REDUCED, f"axes constant; {_IN_RANGE}"),
    Operator("ReduceSumSquare", _REDUCED, f"axes constant; {_IN_RANGE}"),
    Operator("Relu", _ARITHMETIC),
    Operator("Reshape", "any", "shape constant"),
    Operator(
        "Resize", f"any; interpolated: {_FLOAT}", "roi, scales and sizes constant", moved=True
    ),
    Operator("ReverseSequence", "any"),
    Operator("RoiAlign", _FLOAT, "sampling_ratio given"),
    Operator("RotaryEmbedding", _FLOAT),
    Operator("Round", _FLOAT),
    Operator("STFT", _FLOAT, "step and length constant"),
    Operator("Scan", "any"),
    Operator("ScatterElements", "any"),
    Operator("ScatterND", "any"),
    Operator("Selu", _FLOAT, _within("6 units")),
    Operator("SequenceAt", "any", "position constant"),
    Operator("SequenceConstruct", "any"),
    Operator("SequenceEmpty", "any"),
    Operator("SequenceErase", "any", "position constant"),
    Operator("SequenceInsert", "any", "position constant"),
    Operator("SequenceLength", "any"),
    Operator("SequenceMap", "any"),
    Operator("Shrink", _FLOAT),
    Operator("Sigmoid", _FLOAT),
    Operator("Sign", _ARITHMETIC),
    Operator("Sin", _FLOAT, _within("2**-23") + "; NaN beyond 131072"),
    Operator("Sinh", _FLOAT, _within("4 units")),
    Operator("Slice", "any", "starts, ends, axes and steps constant", moved=True),
    Operator("Softmax", _FLOAT),
    Operator("SoftmaxCrossEntropyLoss", _FLOAT),
    Operator("Softplus", _FLOAT, _within("6 units")),
    Operator("Softsign", _FLOAT, _within("5 units")),
    Operator("SpaceToDepth", "any", moved=True),
    Operator("Split", "any", "split constant", moved=True),
    Operator("SplitToSequence", "any", "split constant"),
    Operator("Sqrt", _FLOAT, _within("1.5 units")),
    Operator("Squeeze", "any", "axes constant"),
    Operator("Sub", _ARITHMETIC, _IN_RANGE),
    Operator("Sum", _FLOAT),
    Operator("Swish", _FLOAT),
    Operator("Tan", _FLOAT, _within("5 units up to 100") + "; NaN beyond 131072"),
    Operator("Tanh", _FLOAT),
    Operator("TensorScatter", "any"),
    Operator("TfIdfVectorizer", "int32, int64 as 32-bit values"),
    Operator("ThresholdedRelu", _FLOAT),
    Operator("Tile", "any", "repeats constant", moved=True),
    Operator("TopK", _REDUCED, "k constant and at most 64"),
    Operator("Transpose", "any", moved=True),
    Operator("Trilu", "any", "k constant", moved=True),
    Operator("Unsqueeze", "any", "axes constant"),
    Operator("Where", _ANY),
    Operator("Xor", "bool"),
    Operator("ai.onnx.ml.ArrayFeatureExtractor", "any"),
    Operator("ai.onnx.ml.Binarizer", "float32, int32, int64 as 32-bit values"),
    Operator("ai.onnx.ml.LinearRegressor", "float32", "without a transformation"),
    Operator("ai.onnx.ml.Scaler", "float32, int32, int64 as 32-bit values"),
    Operator(
        "ai.onnx.ml.TreeEnsemble", "float16, float32", "sums and averages, without a transformation"
    ),
    Operator("ai.onnx.preview.FlexAttention", _FLOAT),
    Operator("ai.onnx.preview.training.Adagrad", "float32"),
    Operator("ai.onnx.preview.training.Adam", "float32"),
    Operator("ai.onnx.preview.training.Momentum", "float32"),
    Operator("com.microsoft.Attention", _FLOAT, "no shared buffers"),
    Operator("com.microsoft.BiasGelu", _FLOAT),
    Operator("com.microsoft.BiasSplitGelu", _FLOAT),
    Operator("com.microsoft.DequantizeLinear", _QUANTA),
    Operator("com.microsoft.DynamicQuantizeLSTM", "float32", "sequences of one length"),
    Operator("com.microsoft.DynamicQuantizeMatMul", "float32 and int8, uint8"),
    Operator("com.microsoft.EmbedLayerNormalization", _FLOAT),
    Operator("com.microsoft.FastGelu", _FLOAT),
    Operator(
        "com.microsoft.FusedConv",
        _FLOAT,
        "activations Clip, HardSigmoid, LeakyRelu, Relu, Sigmoid, Tanh",
    ),
    Operator("com.microsoft.FusedGemm", _FLOAT, "activations as of FusedConv"),
    Operator("com.microsoft.FusedMatMul", _FLOAT),
    Operator(
        "com.microsoft.GatherBlockQuantized",
        "float16, float32",
        "data, scales and zero points constant, kept as floats",
    ),
    Operator("com.microsoft.Gelu", _FLOAT),
    Operator("com.microsoft.GroupQueryAttention", _FLOAT, "caches of a fixed size, not quantized"),
    Operator("com.microsoft.LayerNormalization", _FLOAT),
    Operator("com.microsoft.MatMulIntegerToFloat", "int8, uint8"),
    Operator("com.microsoft.MatMulNBits", _FLOAT, "weights constant, kept as floats"),
    Operator("com.microsoft.MoE", _FLOAT, "without FC3; every expert computed"),
    Operator("com.microsoft.MultiHeadAttention", _FLOAT, "no shared buffers"),
    Operator("com.microsoft.QAttention", "int8, uint8", "no shared buffers"),
    Operator("com.microsoft.QEmbedLayerNormalization", "int8, uint8"),
    Operator("com.microsoft.QGemm", "int8, uint8"),
    Operator("com.microsoft.QLinearAdd", "int8, uint8"),
    Operator("com.microsoft.QLinearAveragePool", "int8, uint8"),
    Operator("com.microsoft.QLinearConcat", "int8, uint8"),
    Operator("com.microsoft.QLinearGlobalAveragePool", "int8, uint8"),
    Operator("com.microsoft.QLinearLeakyRelu", "int8, uint8"),
    Operator("com.microsoft.QLinearMul", "int8, uint8"),
    Operator("com.microsoft.QLinearSigmoid", "int8, uint8"),
    Operator("com.microsoft.QLinearSoftmax", "int8, uint8"),
    Operator("com.microsoft.QLinearWhere", "int8, uint8"),
    Operator(
        "com.microsoft.QMoE",
        _FLOAT,
        "routing normalized; weights kept as floats but for 8 bits with a scale a column",
    ),
    Operator("com.microsoft.QuantizeLinear", _QUANTA),
    Operator("com.microsoft.QuickGelu", _FLOAT),
    Operator("com.microsoft.RotaryEmbedding", _FLOAT, "scale 1, batches not packed"),
    Operator("com.microsoft.SimplifiedLayerNormalization", _FLOAT),
    Operator("com.microsoft.SkipLayerNormalization", _FLOAT),
    Operator("com.microsoft.SkipSimplifiedLayerNormalization", _FLOAT),
    Operator("com.microsoft.TransposeMatMul", _FLOAT),
)

BY_NAME = {row.name: row for row in OPERATORS}


def full_name(domain: str, op: str) -> str:
    """An operator's name, with its domain where that is not ONNX's own."""
    return f"{domain}.{op}" if domain else op
