"""The MXM: installed arrays, and what activations make of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.layout import numpy_type
from clockstep_isa.table import BY_NAME, Type
from clockstep_runtime.engine.compute import Compute
from clockstep_runtime.engine.gather import SEGMENT, Known, as_value, byte_of, places
from clockstep_runtime.linker import Linked, Operands
from clockstep_runtime.products import HalfWeights, Int8Weights, half_product, int8_sum

__all__ = ["Arrays", "Make"]

Array = NDArray[Any]
Make = Callable[[list[Any]], Any]
"""All values so far to one more."""

_CACHE_BYTES = 512 << 20
"""Arrays of constant weights are kept from run to run up to this much."""

_NARROW_BYTES = 2 << 30
"""Beyond that, arrays of fp16 are kept up to this much without the float64 of their products."""

_PREPARED = {Type.I8: 6, Type.F16: 10}
"""Bytes that a prepared weight takes at most: int8 twice and float32; fp16 and float64."""

_NEARLY = 0.75
"""Int8 arrays with that part of all columns get all of them: a product of zeros takes less than to
copy the others."""

_TYPE, _ROWS = (BY_NAME["abc"].field(name) for name in ("type", "rows"))
_INSTALL_TYPE = BY_NAME["iw"].field("type")
_NAN = np.uint32(0x7FC00000)


@dataclass(frozen=True, slots=True)
class _Installed:
    """Weights of as many columns as were loaded, for every index of a batch or one for all."""

    weights: Any  # Int8Weights or HalfWeights
    columns: int
    batch: int


class Arrays:
    """Makes arrays, keeps those whose weights no input changes, and multiplies with them."""

    def __init__(self, linked: Linked, known: Known) -> None:
        self._linked = linked
        self._known = known
        self._lanes = linked.program.machine.vector
        self._by_step: dict[int, _Installed] = {}
        self._by_content: dict[bytes, _Installed] = {}
        self._room = _CACHE_BYTES
        self._narrow_room = _NARROW_BYTES

    def installer(self, step: int) -> Make:
        """How to make the array of a step that is an `iw`, from the columns loaded for it."""
        return lambda values: self._installed(step, values)

    def _installed(self, step: int, values: list[Any]) -> _Installed:
        if step in self._by_step:
            return self._by_step[step]
        linked = self._linked
        kind = Type(int(linked.columns.args[linked.steps[step], _INSTALL_TYPE]))
        content = self._content(step, kind)
        if content is None:
            return self._made(kind, step, values)
        array = self._by_content.get(content)
        if array is None:
            narrow = self._room < self._most(kind) <= self._narrow_room
            array = self._made(kind, step, values, narrow=narrow)
            if not self._keeps(kind, array):
                return array
            self._by_content[content] = array
        self._by_step[step] = array
        return array

    def _most(self, kind: Type) -> int:
        """Bytes that an array of a type takes at most."""
        return _PREPARED[kind] * self._lanes**2

    def _keeps(self, kind: Type, array: _Installed) -> bool:
        """Whether there is room for an array, which it then has."""
        weights = array.columns * self._lanes
        if self._room >= self._most(kind):
            self._room -= _PREPARED[kind] * weights
            return True
        if kind is Type.I8 or kind.bytes * weights > self._narrow_room:
            return False
        self._narrow_room -= kind.bytes * weights
        return True

    def _content(self, step: int, kind: Type) -> bytes | None:
        """What tells the weights of an `iw` from any others; None if they are not constant."""
        operands, bounds = self._linked.operands, self._linked.operands_of
        low, high = int(bounds[step]), int(bounds[step + 1])
        begin, end = int(operands.begin[low]), int(operands.begin[high])
        if not self._known.constant[operands.value[begin:end]].all():
            return None
        columns = [getattr(operands, name)[begin:end] for name in SEGMENT]
        columns.append(operands.begin[low:high] - begin)
        columns += [getattr(operands, name)[low:high] for name in ("column", "stride", "count")]
        return b"".join([bytes([kind]), *(column.tobytes() for column in columns)])

    def _made(
        self, kind: Type, step: int, values: list[Any], *, narrow: bool = False
    ) -> _Installed:
        """Columns that are not loaded are zero; those past the last loaded are left out."""
        bounds = self._linked.operands_of
        loads = _loads(self._linked.operands.between(int(bounds[step]), int(bounds[step + 1])))
        used = max((max(t, t + d * (n - 1)) + 1 for *_, t, d, n in loads), default=1)
        if kind is Type.I8 and used >= _NEARLY * self._lanes:
            used = self._lanes
        batch = max((values[value].shape[1] for _, value, *_ in loads), default=1)
        raw = np.zeros((used, batch, self._lanes, kind.bytes), np.uint8)
        whole = as_value(raw)
        for aligned, value, part, slot, source, pitch, first, stride, length in loads:
            vectors, columns = values[value], places(first, stride, length)
            vectors = vectors[places(source, pitch, length)]
            if aligned:
                whole[columns] = vectors
            else:
                raw[columns, ..., slot] = byte_of(vectors, part)
        matrix = whole.view(numpy_type(kind))
        matrix = matrix[:, 0] if batch == 1 else np.ascontiguousarray(matrix.swapaxes(0, 1))
        weights = Int8Weights(matrix) if kind is Type.I8 else HalfWeights(matrix, narrow=narrow)
        return _Installed(weights, used, batch)

    def multiplier(self, owners: list[int]) -> Callable[[list[Any]], Compute]:
        """How to multiply the operands of one `abc`, or of the sum of several int8 ones.

        `owners` are these. The result takes all values so far and gives what multiplies with the
        arrays that are among them.
        """
        args = self._linked.columns.args[owners]
        kind = Type(int(args[0, _TYPE]))
        dtype, product = numpy_type(kind), self._sum if kind is Type.I8 else self._half
        arrays = self._linked.weights[owners].tolist()
        parts = list(zip(args[:, _ROWS].tolist(), arrays, strict=True))

        def bind(values: list[Any]) -> Compute:
            installed = [(rows, values[array]) for rows, array in parts]

            def compute(*operands: Array) -> Array:
                terms = [
                    (operand.view(dtype)[..., :rows], array)
                    for operand, (rows, array) in zip(operands, installed, strict=True)
                ]
                batch = max(max(vectors.shape[1], array.batch) for vectors, array in terms)
                terms = [(_spread(vectors, batch), array) for vectors, array in terms]
                return product(terms).view("<u4")

            return compute

        return bind

    def _sum(self, terms: list[tuple[Array, _Installed]]) -> Array:
        """Arrays of as many columns are multiplied together; lanes past their columns are 0."""
        widths = sorted({array.columns for _, array in terms})
        parts = [
            int8_sum([(vectors, a.weights) for vectors, a in terms if a.columns == columns])
            for columns in widths
        ]
        if widths == [self._lanes]:
            return parts[0]
        whole = np.empty((*parts[0].shape[:2], self._lanes), np.int32)
        whole[..., : widths[-1]] = parts.pop()
        whole[..., widths[-1] :] = 0
        for part in parts:
            whole[..., : part.shape[2]] += part
        return whole

    def _half(self, terms: list[tuple[Array, _Installed]]) -> Array:
        ((vectors, array),) = terms
        product = half_product(vectors, array.weights)
        if array.columns == self._lanes:
            return product
        whole = np.zeros((*product.shape[:2], self._lanes), np.float32)
        whole[..., : array.columns] = product
        # Columns that were not loaded are zero, and zero times infinity is not.
        finite = np.isfinite(vectors)
        if np.count_nonzero(finite) < finite.size:
            whole.view(np.uint32)[~finite.all(axis=2), array.columns :] = _NAN
        return whole


def _spread(vectors: Array, batch: int) -> Array:
    """Vectors with that batch."""
    if vectors.shape[1] == batch:
        return vectors
    return np.broadcast_to(vectors, (len(vectors), batch, vectors.shape[2]))


def _loads(operands: Operands) -> list[tuple[int, ...]]:
    """Segments of loaded columns, in order.

    Each has `aligned`, value, part and slot as in `Operands`, then the first vector of the value
    and the step to the next, the column that this goes to and the step to the next, and how many.
    """
    each = np.repeat(np.arange(len(operands)), np.diff(operands.begin))
    stride, last = operands.stride[each], operands.length - 1
    still = stride == 0  # all go to one column, where the last one stays
    kept = ~still | (operands.first + last * operands.pitch == operands.count[each] - 1)
    columns = (
        operands.aligned[each],
        operands.value,
        operands.part,
        operands.slot,
        operands.source + np.where(still, last * operands.source_step, 0),
        operands.source_step,
        operands.column[each] + stride * operands.first,
        stride * operands.pitch,
        np.where(still, 1, operands.length),
    )
    return list(zip(*(column[kept].tolist() for column in columns), strict=True))
