"""Weights of a few bits, packed and scaled by blocks: they become floats when the model is read.

They take the SRAM of floats. To keep them narrow, the product would have to scale every block.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.frontend.bodies.contrib import (
    refuse_attributes,
    refuse_operands,
    sums,
)
from clockstep_compiler.frontend.body import Body, Refused, composes
from clockstep_compiler.frontend.infer import Mismatch
from clockstep_compiler.frontend.tensors import Array, numpy_dtype

__all__ = ["unpacked"]

_ZEROS = {2: 2, 4: 8, 8: 128}
"""The zero point of unsigned codes, by their bits, where a node has none."""


def unpacked(data: Array, bits: int) -> NDArray[np.int32]:
    """The codes of bytes along the last axis, those of the low bits first."""
    shifts = np.arange(0, 8, bits)
    codes = (data.astype(np.int32)[..., None] >> shifts) & ((1 << bits) - 1)
    return codes.reshape(*data.shape[:-1], -1)


def _given(body: Body, index: int, name: str) -> Array:
    """A constant operand."""
    value = body.value(body.inputs(index + 1)[index])
    if value is None:
        raise Refused("operand-not-constant", f"{name} is computed when the model runs")
    return value


def _bits(body: Body) -> int:
    bits = int(body.attribute("bits", 4))
    if bits not in _ZEROS:
        raise Refused("unsupported-form", f"codes of {bits} bits: only 2, 4 and 8 are supported")
    return bits


def _blocks(array: Array, block: int, axis: int, size: int) -> NDArray[np.float32]:
    """What there is of every block, for every element along an axis."""
    found = np.repeat(array.astype(np.float32), block, axis)
    if found.shape[axis] < size:
        raise Mismatch(f"{array.shape[axis]} blocks of {block} do not hold {size} elements")
    return np.take(found, np.arange(size), axis)


@composes("com.microsoft.MatMulNBits")
def _matmul(body: Body) -> None:
    """B is [N, blocks, bytes], each block along K with a scale and perhaps a zero point."""
    a, _, _, zeros, _, bias = body.inputs(6)
    refuse_attributes(body, weight_prepacked=0)
    refuse_operands(body, {4: "g_idx"})
    depth, columns, block = (int(body.attribute(n, 0)) for n in ("K", "N", "block_size"))
    bits, data, scales = _bits(body), _given(body, 1, "B"), _given(body, 2, "scales")
    if block < 1 or data.size * 8 != columns * -(-depth // block) * block * bits:
        raise Mismatch(f"B of shape {data.shape} for {columns} columns of {depth} elements")
    count = -(-depth // block)
    codes = unpacked(data.reshape(columns, -1), bits)[:, :depth].astype(np.float32)
    shift: float | NDArray[np.float32] = float(_ZEROS[bits])
    if zeros:
        given = _given(body, 3, "zero_points")
        packed = given.dtype == np.uint8
        points = unpacked(given.reshape(columns, -1), bits) if packed else given
        shift = _blocks(points.reshape(columns, -1)[:, :count], block, 1, depth)
    weights = (codes - shift) * _blocks(scales.reshape(columns, count), block, 1, depth)
    product = body.op("MatMul", a, body.constant(weights.T, numpy_dtype(body.dtype(a))))
    body.give(0, sums(body, product, bias))


@composes("com.microsoft.GatherBlockQuantized")
def _gather(body: Body) -> None:
    """Rows of a table whose blocks along one axis have a scale and perhaps a zero point each."""
    data, scales = _given(body, 0, "data"), _given(body, 2, "scales")
    block, bits = int(body.attribute("block_size", 128)), _bits(body)
    rank = data.ndim
    axis = int(body.attribute("quantize_axis", 1)) % rank
    packed = data.dtype == np.uint8
    codes = unpacked(data, bits) if packed else data
    codes = codes.astype(np.float32)
    shift: float | NDArray[np.float32] = float(_ZEROS[bits]) if packed else 0.0
    if body.inputs(4)[3]:
        points = _given(body, 3, "zero_points")
        points = unpacked(points, bits)[..., : scales.shape[-1]] if packed else points
        shift = _blocks(points, block, axis, codes.shape[axis])
    table = (codes - shift) * _blocks(scales, block, axis, codes.shape[axis])
    name = body.constant(table, scales.dtype)
    axis = int(body.attribute("gather_axis", 0))
    body.give(0, body.op("Gather", name, body.inputs(2)[1], axis=axis))
