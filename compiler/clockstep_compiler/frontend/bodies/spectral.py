"""Discrete Fourier transforms as products with a constant matrix: DFT and STFT.

A transform is linear in its real and imaginary parts, so its matrix is what numpy makes of the unit
vectors. Rounded to the element type, it is all of the error that a product does not have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.frontend.body import Body, Refused, composes
from clockstep_compiler.frontend.infer import Mismatch

__all__: list[str] = []

_MOST = 1 << 26
"""Elements of a transform's matrix."""

Transform = Callable[[NDArray[np.complex128]], NDArray[np.generic]]


def _transform(length: int, inverse: bool, onesided: bool) -> Transform:
    """What is done to complex vectors along the last axis."""

    def whole(x: NDArray[np.complex128]) -> NDArray[np.generic]:
        if inverse:
            return np.fft.irfft(x, n=length)
        found = np.fft.fft(x, n=length)
        return found[..., : length // 2 + 1] if onesided else found

    return whole


def _matrix(size: int, parts: int, transform: Transform) -> NDArray[np.float64]:
    """[size * parts, results, 1 or 2]: the transforms of all vectors with a single one."""
    units = np.eye(size * parts).reshape(-1, size, parts)
    imaginary = units[..., 1] if parts == 2 else np.zeros(units.shape[:2])
    found = transform(units[..., 0] + 1j * imaginary)
    both = [found.real, found.imag] if np.iscomplexobj(found) else [found]
    return np.stack(both, axis=-1).astype(np.float64)


def _apply(body: Body, x: str, transform: Transform, results: int) -> str:
    """[..., size, parts] transformed along `size`, which becomes `results`."""
    *outer, size, parts = body.shape(x)
    if parts not in (1, 2):
        raise Mismatch(f"numbers of {parts} parts are neither real nor complex")
    if 2 * size * parts * results > _MOST:
        raise Refused("unsupported-form", f"a transform of {size} numbers to {results}")
    table = _matrix(size, parts, transform)
    flat = body.reshape(x, (math.prod(outer), size * parts))
    matrix = body.constant(table.reshape(size * parts, -1), np.float64)
    product = body.op("MatMul", flat, body.cast(matrix, body.dtype(x)))
    return body.reshape(product, (*outer, *table.shape[1:]))


def _number(body: Body, name: str, default: int, what: str) -> int:
    if not name:
        return default
    value = body.value(name)
    if value is None:
        raise Refused(
            "operand-not-constant", f"the {what} is computed at run time", "make it an initializer"
        )
    return int(value.reshape(()).item())


@composes("DFT")
def _dft(body: Body) -> None:
    x, length_name, axis_name = body.inputs(3)
    shape, rank = body.shape(x), len(body.shape(x))
    inverse, onesided = (bool(body.attribute(name, 0)) for name in ("inverse", "onesided"))
    if inverse and not onesided:
        # Where the exact result is 0, ONNX's tests want the noise of one fast transform.
        raise Refused(
            "unsupported-form",
            "an inverse transform to complex numbers",
            "transform the conjugate, conjugate the result and divide it by the length",
        )
    if body.step.opset < 20:
        axis = int(body.attribute("axis", 1))
    else:
        axis = _number(body, axis_name, -2, "axis")
    axis %= rank
    if axis == rank - 1:
        raise Mismatch("the last axis holds the parts of the numbers")
    usual = 2 * (shape[axis] - 1) if inverse and onesided else shape[axis]
    length = _number(body, length_name, usual, "length of the transform")
    if length < 1:
        raise Mismatch(f"a transform of length {length}")
    results = length if inverse or not onesided else length // 2 + 1
    order = [*(a for a in range(rank - 1) if a != axis), axis, rank - 1]
    moved = body.transpose(x, order)
    found = _apply(body, moved, _transform(length, inverse, onesided), results)
    body.give(0, body.transpose(found, [order.index(a) for a in range(rank)]))


@composes("STFT")
def _stft(body: Body) -> None:
    x, step_name, window, length_name = body.inputs(4)
    if len(body.shape(x)) == 2:  # [batch, samples]: real numbers, as onnxruntime reads them too
        x = body.reshape(x, (*body.shape(x), 1))
    *batch, samples, parts = body.shape(x)
    step = _number(body, step_name, 0, "step between frames")
    usual = body.shape(window)[0] if window else samples
    length = _number(body, length_name, usual, "length of a frame")
    if step < 1 or not 0 < length <= samples:
        raise Mismatch(f"frames of {length} samples, {step} apart, of a signal of {samples}")
    if window and body.shape(window) != (length,):
        raise Mismatch(f"a window of shape {body.shape(window)} on frames of {length} samples")
    onesided = bool(body.attribute("onesided", 1))
    frames = _framed(body, x, (*batch, samples, parts), step, length)
    if window:
        frames = body.op("Mul", frames, body.reshape(window, (length, 1)))
    results = length // 2 + 1 if onesided else length
    body.give(0, _apply(body, frames, _transform(length, False, onesided), results))


def _framed(body: Body, x: str, shape: Sequence[int], step: int, length: int) -> str:
    """[..., samples, parts] as [..., frames, length, parts]."""
    *batch, samples, parts = shape
    count = 1 + (samples - length) // step
    index = step * np.arange(count)[:, None] + np.arange(length)
    taken = body.op("Gather", x, body.constant(index.ravel()), axis=len(batch))
    return body.reshape(taken, (*batch, count, length, parts))
