"""Train the digits classifier and write its ONNX files. Needs `pip install -e '.[samples]'`.

Writes beside this file: digits.onnx (float32), digits.int8.onnx (QDQ, by onnxruntime's quantizer)
and digits_test.npz (the 360 held-out images and their labels).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

HERE = Path(__file__).parent
WIDTHS = (96, 64)
OPSET, IR_VERSION = 21, 10


def main() -> None:
    images, labels = load_digits(return_X_y=True)
    x = (images / 16).astype(np.float32)  # pixels are 0 to 16
    x_train, x_test, y_train, y_test = train_test_split(
        x, labels, test_size=360, random_state=0, stratify=labels
    )
    network = MLPClassifier(WIDTHS, alpha=1e-3, max_iter=300, random_state=0)
    network.fit(x_train, y_train)
    print(f"scikit-learn: {100 * network.score(x_test, y_test):.2f}% of {len(y_test)} right")

    onnx.save(to_onnx(network), HERE / "digits.onnx")
    quantize_static(
        HERE / "digits.onnx",
        HERE / "digits.int8.onnx",
        Batches(x_train),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
    )
    np.savez_compressed(HERE / "digits_test.npz", x=x_test, y=y_test)


def to_onnx(network: MLPClassifier) -> onnx.ModelProto:
    """The network as Gemm and Relu over x [N, 64], giving the ten scores before the softmax."""
    nodes, constants = [], []
    value = "x"
    last = len(network.coefs_) - 1
    for i, (weight, bias) in enumerate(zip(network.coefs_, network.intercepts_, strict=True)):
        for name, array in ((f"w{i}", weight), (f"b{i}", bias)):
            constants.append(numpy_helper.from_array(array.astype(np.float32), name))
        out = "scores" if i == last else f"layer{i}"
        inputs = [value, f"w{i}", f"b{i}"]
        nodes.append(helper.make_node("Gemm", inputs, [out], name=f"gemm{i}"))
        value = out
        if i < last:
            nodes.append(helper.make_node("Relu", [out], [f"hidden{i}"], name=f"relu{i}"))
            value = f"hidden{i}"
    pixels = network.coefs_[0].shape[0]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", pixels])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 10])],
        constants,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model


class Batches(CalibrationDataReader):  # type: ignore[misc] # untyped base class
    """The training images for the quantizer, 100 at a time."""

    def __init__(self, x: NDArray[np.float32]) -> None:
        self._batches: Iterator[NDArray[np.float32]] = iter(np.array_split(x, len(x) // 100))

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"x": batch}


if __name__ == "__main__":
    main()
