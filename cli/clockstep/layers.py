"""Which layer went wrong: every stored tensor beside what onnxruntime makes of its inputs.

The model is cut at each tensor that the program keeps in SRAM, and the reference computes the part
between two cuts from the program's own values. So an error shows in the layer that makes it, and
not in those that follow; what a layer costs in rounding does not add up either. Integers may differ
by one: that is a rounding of what QuantizeLinear rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep.compare import Comparison, compare, run_cut
from clockstep.output import number, table_text
from clockstep_compiler.frontend import CUT, cut_model
from clockstep_isa import Probe, Program
from clockstep_runtime.debug import probe_values

__all__ = ["Layer", "compare_layers", "layers_as_data", "layers_text"]

Tensor = NDArray[Any]

_STRANGE = ("bfloat16",)
"""Element types that onnxruntime does not take from numpy."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One stored tensor: the node that makes it, all nodes since the tensors before, the error.

    `size` is the largest magnitude of the reference. `error` is None if the tensor was not in SRAM
    in the cycle that the program says.
    """

    tensor: str
    node: str
    op: str
    nodes: tuple[str, ...]
    dtype: str
    size: float
    error: Comparison | None

    @property
    def diverges(self) -> bool:
        return self.error is None or self.error.mismatched > 0

    @property
    def of_range(self) -> float | None:
        """The largest error as a part of the largest magnitude."""
        if self.error is None:
            return None
        return self.error.max_abs / self.size if self.size else float(self.error.max_abs > 0)

    def as_dict(self) -> dict[str, Any]:
        """A row for tables and JSON; the figures are None if there is nothing to compare."""
        error = dict.fromkeys(Comparison.__slots__) if self.error is None else self.error.as_dict()
        return {
            "node": self.node,
            "op": self.op,
            "tensor": self.tensor,
            "dtype": self.dtype,
            "nodes": list(self.nodes),
            **error,
            "of_range": self.of_range,
            "diverges": self.diverges,
        }


def compare_layers(
    model: Path,
    program: Program,
    inputs: Mapping[str, Tensor],
    rtol: float | None,
    atol: float | None,
) -> list[Layer]:
    """Every probe of the program whose tensor the model has, in the order of the layers.

    One run on the reference interpreter, one of onnxruntime. Raises `UsageError` if onnxruntime is
    not installed or does not run the model, or if it is not the program's.
    """
    tensors = {
        p.binding.name: (p.binding.dtype, p.binding.shape)
        for p in program.probes
        if p.binding.dtype not in _STRANGE
    }
    cut, names = cut_model(model, tensors)
    kept = {
        probe.binding.name: (probe, value)
        for probe, value in zip(program.probes, probe_values(program, inputs), strict=True)
        if probe.binding.name in names
    }
    feed = dict(inputs)
    for name, (probe, value) in kept.items():
        binding = probe.binding
        feed[CUT + name] = np.zeros(binding.shape, binding.dtype) if value is None else value
    reference = run_cut(model, cut, feed, names)
    return [
        _layer(program, probe, value, reference[name], rtol, atol)
        for name, (probe, value) in kept.items()
    ]


def _layer(
    program: Program,
    probe: Probe,
    value: Tensor | None,
    reference: Tensor,
    rtol: float | None,
    atol: float | None,
) -> Layer:
    binding, maker = probe.binding, program.nodes[probe.nodes[-1]]
    if reference.dtype.kind in "iu":
        atol = max(1.0, atol or 0.0)
    error = None if value is None else compare(value, reference, rtol, atol, binding.name)
    names = tuple(program.nodes[n].name for n in probe.nodes)
    finite = np.abs(reference[np.isfinite(reference)].astype(np.float64))
    size = float(finite.max(initial=0.0))
    return Layer(binding.name, maker.name, maker.op, names, binding.dtype, size, error)


def layers_as_data(layers: Sequence[Layer] | None) -> dict[str, Any]:
    """The keys `layers` and `first_divergence` of `run --compare --json`; None: not compared."""
    if layers is None:
        return {"layers": None, "first_divergence": None}
    rows = [layer.as_dict() for layer in layers]
    return {"layers": rows, "first_divergence": next((r for r in rows if r["diverges"]), None)}


_COLUMNS = ("node", "op", "tensor", "dtype", "max_abs", "of_range", "mismatched", "total")


def layers_text(layers: Sequence[Layer]) -> str:
    """The layers as a table, and which of them is the first to diverge."""
    if not layers:
        return "no tensor between the inputs and the outputs can be compared"
    table = table_text([layer.as_dict() for layer in layers], _COLUMNS)
    return f"each layer, on the inputs that it had here:\n\n{table}\n\n{_verdict(layers)}"


def _verdict(layers: Sequence[Layer]) -> str:
    position = next((i for i, layer in enumerate(layers) if layer.diverges), None)
    if position is None:
        worst = max(layers, key=lambda layer: layer.of_range or 0.0)
        return f"no layer diverges by itself; the least exact is {worst.node} ({worst.op})"
    layer = layers[position]
    lines = [f"the first to diverge is {layer.node} ({layer.op}), {_numbers(layer)}"]
    others = [name for name in layer.nodes if name != layer.node]
    if others:
        lines.append(f"computed together with it: {', '.join(others)}")
    if position:
        before = max(b.of_range or 0.0 for b in layers[:position])
        lines.append(f"largest error before it: {number(before)} of the range of a tensor")
    return "\n".join(lines)


def _numbers(layer: Layer) -> str:
    error = layer.error
    if error is None:
        return f"whose tensor {layer.tensor!r} was not written in time"
    return (
        f"tensor {layer.tensor!r}: {number(error.mismatched)} of {number(error.total)} elements "
        f"differ, by up to {number(error.max_abs)}"
    )
