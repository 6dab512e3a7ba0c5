"""ResNet-50 and MobileNetV2, batch normalisation folded, weights from a fixed seed.

To add a network, write a function that returns a `ModelProto`; `rows.py` says what is measured.
"""

from __future__ import annotations

import onnx

from benchmarks.builder import Net

__all__ = ["mobilenet_v2", "resnet50"]

_BOTTLENECKS = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))
"""Blocks, inner channels and stride of the first block, for each stage of ResNet-50."""

_INVERTED = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks and stride of the first block, for each stage of MobileNetV2."""


class _Images(Net):
    """Convolutions that keep the variance of what they are given, or `gain` times it."""

    def conv(self, x: str, c: int, n: int, k: int = 1, stride: int = 1, gain: float = 2.0) -> str:
        """c channels to n under a square kernel of k, which pads to keep the size."""
        std = (gain / (c * k * k)) ** 0.5
        return self._conv(x, (n, c, k, k), std, stride, 1)

    def depthwise(self, x: str, c: int, stride: int) -> str:
        return self._conv(x, (c, 1, 3, 3), (2 / 9) ** 0.5, stride, c)

    def _conv(
        self, x: str, shape: tuple[int, int, int, int], std: float, stride: int, group: int
    ) -> str:
        weight, bias = self.normal(shape, std), self.normal(shape[:1], 0.1)
        k = shape[2]
        return self.op(
            "Conv",
            *(x, weight, bias),
            kernel_shape=[k, k],
            strides=[stride] * 2,
            pads=[k // 2] * 4,
            group=group,
        )

    def classes(self, x: str, c: int, count: int) -> None:
        """The mean over an image, and the output y of `count` classes."""
        axes, shape = self.constant([2, 3], dtype="int64"), self.constant([1, c], dtype="int64")
        flat = self.op("Reshape", self.op("ReduceMean", x, axes, keepdims=1), shape)
        weight = self.normal((count, c), (1 / c) ** 0.5)
        y = self.op("Gemm", flat, weight, self.normal((count,), 0.1), transB=1)
        self.output(y, "y", (1, count))


def resnet50(size: int = 224, width: int = 64, classes: int = 1000) -> onnx.ModelProto:
    """x [1, 3, size, size] to y [1, classes]; `width` is 64 in the real one."""
    net = _Images("resnet50")
    x = net.op("Relu", net.conv(net.input("x", (1, 3, size, size)), 3, width, 7, 2))
    x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = width
    for blocks, inner, stride in _BOTTLENECKS:
        for i in range(blocks):
            c, step = inner * width // 64, stride if i == 0 else 1
            y = net.op("Relu", net.conv(x, channels, c))
            y = net.op("Relu", net.conv(y, c, c, 3, step))
            y = net.conv(y, c, 4 * c, gain=0.5)
            if i == 0:
                x = net.conv(x, channels, 4 * c, stride=step, gain=1.0)
            x, channels = net.op("Relu", net.op("Add", y, x)), 4 * c
    net.classes(x, channels, classes)
    return net.model()


def mobilenet_v2(size: int = 224, width: int = 32, classes: int = 1000) -> onnx.ModelProto:
    """x [1, 3, size, size] to y [1, classes]; `width` is 32 in the real one."""
    net = _Images("mobilenetv2")
    x = _relu6(net, net.conv(net.input("x", (1, 3, size, size)), 3, width, 3, 2))
    channels = width
    for expansion, outer, blocks, stride in _INVERTED:
        for i in range(blocks):
            c, step = outer * width // 32, stride if i == 0 else 1
            inner = channels * expansion
            y = _relu6(net, net.conv(x, channels, inner)) if expansion > 1 else x
            y = _relu6(net, net.depthwise(y, inner, step))
            y = net.conv(y, inner, c, gain=1.0)
            x = net.op("Add", x, y) if step == 1 and c == channels else y
            channels = c
    last = 40 * width
    net.classes(_relu6(net, net.conv(x, channels, last)), last, classes)
    return net.model()


def _relu6(net: Net, x: str) -> str:
    return net.op("Clip", x, net.constant(0.0), net.constant(6.0))
