"""The MXM: installed arrays, and what activations make of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.layout import numpy_type
from clockstep_isa.table import BY_NAME, Type
from clockstep_runtime.engine.gather import SEGMENT, Gatherer
from clockstep_runtime.linker import Linked
from clockstep_runtime.products import HalfWeights, Int8Weights, half_product, int8_sum

__all__ = ["Arrays"]

Array = NDArray[Any]
_CACHE_BYTES = 256 << 20
"""Arrays of constant weights are kept from run to run up to this much."""

_PREPARED = 8
"""Bytes that a prepared weight takes at most: float64 of fp16; float32 and int8 of int8."""

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

    def __init__(self, linked: Linked) -> None:
        self._linked = linked
        self._lanes = linked.program.machine.vector
        self._is_image = np.array([block.source == "image" for block in linked.initial], np.bool_)
        self._by_step: dict[int, _Installed] = {}
        self._by_content: dict[bytes, _Installed] = {}
        self._room = _CACHE_BYTES

    def installed(
        self, step: int, values: list[Any], gather: Gatherer, operands: range
    ) -> _Installed:
        """The array that the `iw` of a step makes of the columns loaded for it."""
        if step in self._by_step:
            return self._by_step[step]
        linked = self._linked
        kind = Type(int(linked.columns.args[linked.steps[step], _INSTALL_TYPE]))
        content = self._content(step, kind)
        if content is None:
            return self._made(kind, values, gather, operands)
        array = self._by_content.get(content)
        if array is None:
            array = self._made(kind, values, gather, operands)
            size = _PREPARED * array.columns * self._lanes
            if size > self._room:
                return array
            self._room -= size
            self._by_content[content] = array
        self._by_step[step] = array
        return array

    def _content(self, step: int, kind: Type) -> bytes | None:
        """What tells the weights of an `iw` from any others; None if they are not constant."""
        operands, bounds = self._linked.operands, self._linked.operands_of
        low, high = int(bounds[step]), int(bounds[step + 1])
        begin, end = int(operands.begin[low]), int(operands.begin[high])
        blocks = operands.value[begin:end] - len(self._linked.columns)
        if (blocks < 0).any() or not self._is_image[blocks].all():
            return None
        columns = [getattr(operands, name)[begin:end] for name in SEGMENT]
        columns.append(operands.begin[low:high] - begin)
        columns += [getattr(operands, name)[low:high] for name in ("column", "stride", "count")]
        return b"".join([bytes([kind]), *(column.tobytes() for column in columns)])

    def _made(self, kind: Type, values: list[Any], gather: Gatherer, operands: range) -> _Installed:
        """Columns that are not loaded are zero; those past the last loaded are left out."""
        dtype = numpy_type(kind)
        loaded = []
        for n in operands:
            vectors = gather.value(n, values).view(dtype)
            first, stride = gather.column[n], gather.stride[n]
            if stride == 0:
                vectors = vectors[-1:]  # the last one stays
            loaded.append((vectors, first + stride * np.arange(len(vectors))))
        batch = max((vectors.shape[1] for vectors, _ in loaded), default=1)
        used = max((int(columns.max()) + 1 for _, columns in loaded), default=1)
        whole = np.zeros((used, batch, self._lanes), dtype)
        for vectors, columns in loaded:
            whole[columns] = vectors
        matrix = whole[:, 0] if batch == 1 else np.ascontiguousarray(whole.swapaxes(0, 1))
        weights = Int8Weights(matrix) if kind is Type.I8 else HalfWeights(matrix)
        return _Installed(weights, used, batch)

    def product(self, values: list[Any], gather: Gatherer, operands: range) -> Array:
        """The product of one `abc`, or the sum of several int8 ones, [vectors, batch, lanes]."""
        args = self._linked.columns.args
        terms: list[tuple[Array, _Installed]] = []
        kind = Type.I8
        for number in operands:
            owner = gather.owner[number]
            kind, rows = Type(int(args[owner, _TYPE])), int(args[owner, _ROWS])
            vectors = gather.value(number, values).view(numpy_type(kind))[..., :rows]
            terms.append((vectors, values[self._linked.weights[owner]]))
        batch = max(max(vectors.shape[1], array.batch) for vectors, array in terms)
        terms = [(np.broadcast_to(v, (len(v), batch, v.shape[2])), array) for v, array in terms]
        result = self._sum(terms) if kind is Type.I8 else self._half(*terms[0])
        return result.view("<u4")

    def _sum(self, terms: list[tuple[Array, _Installed]]) -> Array:
        """Arrays of as many columns are multiplied together; lanes past their columns are 0."""
        widths = sorted({array.columns for _, array in terms})
        parts = [
            int8_sum([(vectors, a.weights) for vectors, a in terms if a.columns == columns])
            for columns in widths
        ]
        if widths == [self._lanes]:
            return parts[0]
        whole = np.zeros((*parts[0].shape[:2], self._lanes), np.int32)
        for part in parts:
            whole[..., : part.shape[2]] += part
        return whole

    def _half(self, vectors: Array, array: _Installed) -> Array:
        product = half_product(vectors, array.weights)
        if array.columns == self._lanes:
            return product
        whole = np.zeros((*product.shape[:2], self._lanes), np.float32)
        whole[..., : array.columns] = product
        # Columns that were not loaded are zero, and zero times infinity is not.
        special = ~np.isfinite(vectors).all(axis=2)
        whole.view(np.uint32)[special, array.columns :] = _NAN
        return whole
