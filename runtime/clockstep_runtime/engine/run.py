"""One execution of a linked program: its steps in order, and what is alive in between."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.layout import numpy_type
from clockstep_runtime.engine.gather import Gatherer, Known
from clockstep_runtime.engine.mxm import Arrays
from clockstep_runtime.engine.plan import Planned, plan
from clockstep_runtime.linker import Linked

__all__ = ["Engine"]

Array = NDArray[Any]
Tensor = NDArray[Any]
_CHUNK = 4096
"""Groups of steps that are planned at a time."""

_KEPT = 8 * _CHUNK
"""Groups up to which a program's plan is kept from run to run: about a kilobyte each."""

_LOADED = 1 << 18
"""Elements of an input that are brought to words at a time: what is made of them stays small."""

_TOGETHER = 1 << 21
"""Elements of the largest value up to which runs are done together, with arrays for all of them."""


class Engine:
    """Executes one linked program, as often as wanted.

    Keeps constant weights in prepared form, and the plan of a program of moderate length.
    """

    def __init__(self, linked: Linked) -> None:
        self.linked = linked
        self._known = Known.of(linked)
        self._arrays = Arrays(linked, self._known)
        self._inputs = {
            block.index: len(linked.columns) + number
            for number, block in enumerate(linked.initial)
            if block.source == "input"
        }
        first = int(linked.operands_of[len(linked.steps)])
        last = linked.operands.between(first, len(linked.operands))
        self._last = Gatherer(self._known, last)
        self._plans: dict[int, list[Planned]] = {}
        lanes = linked.program.machine.vector
        self._largest = lanes * max(1, int(self._known.vectors.max(initial=0)))

    @cached_property
    def _image(self) -> list[Any]:
        """All values before the first step of a run without its inputs: the words of the image."""
        linked = self.linked
        values: list[Any] = [None] * (len(linked.columns) + len(linked.initial))
        image = linked.program.image
        starts = (np.cumsum(image.regions[:, 3]) - image.regions[:, 3]).tolist()
        for number, block in enumerate(linked.initial):
            if block.source == "image":
                assert image.data is not None, "a run of a program without weights"
                at = starts[block.index[0]]
                values[len(linked.columns) + number] = image.data[at : at + block.words, None]
        return values

    def run(self, inputs: Mapping[str, Tensor], batch: int) -> dict[str, Tensor]:
        """The outputs [batch, ...] of `batch` independent runs on inputs [batch, ...].

        The program must have its weights. Memory grows with what is alive at a time, not with the
        number of steps. Many runs of much are done some at a time.
        """
        some = max(1, _TOGETHER // self._largest)
        if batch <= some:
            return self._run(inputs, batch)
        parts = [slice(start, min(start + some, batch)) for start in range(0, batch, some)]
        runs = [
            self._run({name: value[part] for name, value in inputs.items()}, part.stop - part.start)
            for part in parts
        ]
        return {name: np.concatenate([run[name] for run in runs]) for name in runs[0]}

    def _run(self, inputs: Mapping[str, Tensor], batch: int) -> dict[str, Tensor]:
        values = self._image.copy()
        self._load_inputs(values, inputs, batch)
        for begin in range(0, len(self.linked.groups) - 1, _CHUNK):
            for value, make, dead in self._planned(begin):
                values[value] = make(values)
                for gone in dead:
                    values[gone] = None
        return self._outputs(values, batch)

    def _planned(self, begin: int) -> list[Planned]:
        """The plan of the chunk that begins with that group."""
        known = self._plans.get(begin)
        if known is not None:
            return known
        groups = len(self.linked.groups) - 1
        made = plan(self.linked, self._known, self._arrays, begin, min(begin + _CHUNK, groups))
        if groups <= _KEPT:
            self._plans[begin] = made
        return made

    def _load_inputs(self, values: list[Any], inputs: Mapping[str, Tensor], batch: int) -> None:
        """Put the words of all inputs [batch, ...] among the values, few runs at a time."""
        program = self.linked.program
        lanes = program.machine.vector
        for number, binding in enumerate(program.inputs):
            pieces = [
                self._inputs.get((number, layout, piece))
                for layout, table in enumerate(binding.layouts)
                for piece in range(len(table.pieces))
            ]
            few = max(1, _LOADED // max(1, math.prod(binding.shape)))
            for part in (slice(start, start + few) for start in range(0, batch, few)):
                waiting = iter(pieces)

                def place(chip: int, queue: int, address: int, words: Array) -> None:
                    at = next(waiting)  # noqa: B023 - called before the next round
                    if at is None:
                        return
                    _, rows, columns = words.shape
                    if values[at] is None:
                        values[at] = np.zeros((rows, batch, lanes), np.uint8)
                    values[at][:, part, :columns] = words.swapaxes(0, 1)  # noqa: B023

                binding.encode(inputs[binding.name][part], place)

    def _outputs(self, values: list[Any], batch: int) -> dict[str, Tensor]:
        linked = self.linked
        bindings = linked.program.outputs
        matrices = []
        for binding in bindings:
            layout = binding.layouts[0]
            shape = (batch, layout.rows, layout.columns)
            matrices.append(np.zeros(shape, numpy_type(layout.stored)))
        for number, output in enumerate(linked.outputs):
            value = self._last.value(number, values)[..., : output.columns]
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
