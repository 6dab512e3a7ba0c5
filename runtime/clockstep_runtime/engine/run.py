"""One execution of a linked program: its steps in order, and what is alive in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.layout import numpy_type
from clockstep_isa.table import BY_NAME, TABLE, Type
from clockstep_runtime.engine.compute import COMPUTES
from clockstep_runtime.engine.gather import SEGMENT, Gatherer
from clockstep_runtime.linker import Linked
from clockstep_runtime.products import HalfWeights, Int8Weights, half_product, int8_sum

__all__ = ["Engine"]

Array = NDArray[Any]
Tensor = NDArray[Any]
_CHUNK = 4096
"""Steps whose tables are turned from arrays into lists at a time."""

_CACHE_BYTES = 256 << 20
"""Arrays whose weights are constant are kept from run to run up to this much."""

_INSTALL, _ABC, _ADD = (TABLE.index(BY_NAME[name]) for name in ("iw", "abc", "add"))
_TYPE, _ROWS = (BY_NAME["abc"].field(name) for name in ("type", "rows"))
_INSTALL_TYPE = BY_NAME["iw"].field("type")


@dataclass(frozen=True, slots=True)
class _Array:
    """An installed array: its weights, of as many columns as were loaded, and their batch."""

    weights: Any  # Int8Weights or HalfWeights
    columns: int
    batch: int


class Engine:
    """Executes one linked program, as often as wanted. Keeps constant weights in prepared form."""

    def __init__(self, linked: Linked) -> None:
        self.linked = linked
        self._constant: dict[bytes, _Array] = {}
        self._room = _CACHE_BYTES
        self._is_image = np.array([block.source == "image" for block in linked.initial], np.bool_)
        self._inputs = {
            block.index: len(linked.columns) + number
            for number, block in enumerate(linked.initial)
            if block.source == "input"
        }

    def run(self, inputs: Mapping[str, Tensor], batch: int) -> dict[str, Tensor]:
        """The outputs [batch, ...] of `batch` independent runs on inputs [batch, ...].

        The program must have its weights. Memory grows with what is alive at a time, not with the
        number of steps.
        """
        linked = self.linked
        values: list[Any] = [None] * (len(linked.columns) + len(linked.initial))
        self._load_image(values)
        self._load_inputs(values, inputs)
        for begin in range(0, len(linked.steps), _CHUNK):
            self._steps(values, begin, min(begin + _CHUNK, len(linked.steps)))
        return self._outputs(values, batch)

    def _load_image(self, values: list[Any]) -> None:
        image = self.linked.program.image
        starts = np.cumsum(image.regions[:, 3]) - image.regions[:, 3]
        for number, block in enumerate(self.linked.initial):
            if block.source == "image":
                assert image.data is not None
                at = int(starts[block.index[0]])
                words = image.data[at : at + block.words]
                values[len(self.linked.columns) + number] = words[:, None]

    def _load_inputs(self, values: list[Any], inputs: Mapping[str, Tensor]) -> None:
        program = self.linked.program
        lanes = program.machine.vector
        for number, binding in enumerate(program.inputs):
            pieces = [
                (number, layout, piece)
                for layout, table in enumerate(binding.layouts)
                for piece in range(len(table.pieces))
            ]
            waiting = iter(pieces)

            def place(chip: int, queue: int, address: int, words: Array) -> None:
                at = self._inputs.get(next(waiting))  # noqa: B023 - called before the next round
                if at is not None:
                    batch, rows, columns = words.shape
                    value = np.zeros((rows, batch, lanes), np.uint8)
                    value[..., :columns] = words.swapaxes(0, 1)
                    values[at] = value

            binding.encode(inputs[binding.name], place)

    def _steps(self, values: list[Any], begin: int, end: int) -> None:
        linked = self.linked
        columns, machine = linked.columns, linked.program.machine
        chunk = linked.steps[begin:end]
        rows, fields = columns.row[chunk].tolist(), columns.args[chunk].tolist()
        bounds = linked.operands_of[begin : end + 1]
        gather = Gatherer(linked.operands, int(bounds[0]), int(bounds[-1]))
        bounds_ = (bounds - bounds[0]).tolist()
        deaths = linked.dead_after[begin : end + 1]
        dead = linked.dead[deaths[0] : deaths[-1]].tolist()
        deaths_ = (deaths - deaths[0]).tolist()
        sums = linked.is_sum[begin:end].tolist()
        for i, value in enumerate(chunk.tolist()):
            operands = range(bounds_[i], bounds_[i + 1])
            compute = COMPUTES[rows[i]]
            if sums[i] or rows[i] == _ABC:
                values[value] = self._product(values, gather, operands)
            elif rows[i] == _INSTALL:
                values[value] = self._install(
                    values, gather, operands, Type(fields[i][_INSTALL_TYPE]), begin + i
                )
            else:
                assert compute is not None
                taken = [gather.value(number, values) for number in operands]
                values[value] = compute(machine, fields[i], taken)
            for gone in dead[deaths_[i] : deaths_[i + 1]]:
                values[gone] = None

    def _install(
        self, values: list[Any], gather: Gatherer, operands: range, kind: Type, step: int
    ) -> _Array:
        """The array that `iw` makes of the columns loaded for it; others are zero."""
        key = self._identity(step, kind)
        if key in self._constant:
            return self._constant[key]
        lanes = self.linked.program.machine.vector
        loaded = [(gather.value(number, values), number) for number in operands]
        batch = max((value.shape[1] for value, _ in loaded), default=1)
        used = 1 + max(
            (gather.column[n] + max(0, (gather.count[n] - 1) * gather.stride[n]) for n in operands),
            default=0,
        )
        dtype = numpy_type(kind)
        whole = np.zeros((used, batch, lanes), dtype)
        for value, number in loaded:
            first, stride, count = (
                gather.column[number],
                gather.stride[number],
                gather.count[number],
            )
            vectors = value.view(dtype)
            if stride == 0:
                whole[first] = vectors[-1]
            else:
                stop = first + stride * count
                whole[first : stop if stop >= 0 else None : stride] = vectors
        matrix = whole[:, 0] if batch == 1 else np.ascontiguousarray(whole.swapaxes(0, 1))
        make = Int8Weights if kind is Type.I8 else HalfWeights
        array = _Array(make(matrix), used, batch)
        # Prepared weights take up to eight bytes an element.
        size = 8 * used * lanes
        if key is not None and size <= self._room:
            self._constant[key] = array
            self._room -= size
        return array

    def _identity(self, step: int, kind: Type) -> bytes | None:
        """What tells the weights of an `iw` from any others; None if they are not constant."""
        operands, bounds = self.linked.operands, self.linked.operands_of
        low, high = int(bounds[step]), int(bounds[step + 1])
        begin, end = int(operands.begin[low]), int(operands.begin[high])
        values = operands.value[begin:end] - len(self.linked.columns)
        if (values < 0).any() or not self._is_image[values].all():
            return None
        parts = (values, *(getattr(operands, name)[begin:end] for name in SEGMENT))
        whole = (
            operands.begin[low:high] - begin,
            operands.column[low:high],
            operands.stride[low:high],
        )
        return b"".join([bytes([kind]), *(part.tobytes() for part in (*parts, *whole))])

    def _product(self, values: list[Any], gather: Gatherer, operands: range) -> Array:
        """The product of one `abc`, or the sum of several int8 ones, [vectors, batch, lanes]."""
        columns, lanes = self.linked.columns, self.linked.program.machine.vector
        terms: list[tuple[Array, _Array]] = []
        kind = Type.I8
        for number in operands:
            owner = gather.owner[number]
            kind, rows = Type(columns.args[owner, _TYPE]), int(columns.args[owner, _ROWS])
            vectors = gather.value(number, values).view(numpy_type(kind))[..., :rows]
            terms.append((vectors, values[self.linked.weights[owner]]))
        batch = max(max(vectors.shape[1], array.batch) for vectors, array in terms)
        count = len(terms[0][0])
        parts = []
        for used in sorted({array.columns for _, array in terms}):
            factors = [
                (np.broadcast_to(vectors, (count, batch, vectors.shape[2])), array.weights)
                for vectors, array in terms
                if array.columns == used
            ]
            parts.append(int8_sum(factors) if kind is Type.I8 else half_product(*factors[0]))
        if len(parts) == 1 and parts[0].shape[-1] == lanes:
            return parts[0].view("<u4")
        whole = np.zeros((count, batch, lanes), parts[0].dtype)
        for part in parts:
            whole[..., : part.shape[-1]] += part
        return whole.view("<u4")

    def _outputs(self, values: list[Any], batch: int) -> dict[str, Tensor]:
        linked = self.linked
        bindings = linked.program.outputs
        matrices = []
        for binding in bindings:
            layout = binding.layouts[0]
            shape = (batch, layout.rows, layout.columns)
            matrices.append(np.zeros(shape, numpy_type(layout.stored)))
        bounds = linked.operands_of[len(linked.steps) :].tolist()
        gather = Gatherer(linked.operands, bounds[0], bounds[-1])
        for number, output in enumerate(linked.outputs):
            value = gather.value(bounds[number] - bounds[0], values)[..., : output.columns]
            whole = matrices[output.binding]
            rows = slice(output.row, output.row + len(value))
            columns = slice(output.column, output.column + output.columns)
            if output.byte < 0:
                whole[:, rows, columns] = value.view(whole.dtype).swapaxes(0, 1)
            else:
                raw = whole[..., None].view(np.uint8)
                raw[:, rows, columns, output.byte] = value.swapaxes(0, 1)
        return {
            binding.name: binding.tensor(matrix)
            for binding, matrix in zip(bindings, matrices, strict=True)
        }
