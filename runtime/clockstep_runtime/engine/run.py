"""One execution of a linked program: its steps in order, and what is alive in between."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.layout import numpy_type
from clockstep_isa.table import BY_NAME, TABLE
from clockstep_runtime.engine.compute import COMPUTES
from clockstep_runtime.engine.gather import Gatherer
from clockstep_runtime.engine.mxm import Arrays
from clockstep_runtime.linker import Linked

__all__ = ["Engine"]

Array = NDArray[Any]
Tensor = NDArray[Any]
_CHUNK = 4096
"""Steps whose tables are turned from arrays into lists at a time."""

_INSTALL, _ABC = (TABLE.index(BY_NAME[name]) for name in ("iw", "abc"))


class Engine:
    """Executes one linked program, as often as wanted. Keeps constant weights in prepared form."""

    def __init__(self, linked: Linked) -> None:
        self.linked = linked
        self._arrays = Arrays(linked)
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
                values[value] = self._arrays.product(values, gather, operands)
            elif rows[i] == _INSTALL:
                values[value] = self._arrays.installed(begin + i, values, gather, operands)
            else:
                assert compute is not None
                taken = [gather.value(number, values) for number in operands]
                values[value] = compute(machine, fields[i], taken)
            for gone in dead[deaths_[i] : deaths_[i + 1]]:
                values[gone] = None

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
