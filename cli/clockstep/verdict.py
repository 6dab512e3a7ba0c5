"""The verdict of `run --compare`: every output beside onnxruntime's, and whose fault it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep.compare import Comparison, compare, run_reference
from clockstep.layers import compare_layers, layers_as_data, layers_text
from clockstep.output import table_text
from clockstep_isa import Program, UsageError

__all__ = ["Verdict", "judge"]

Tensors = Mapping[str, NDArray[Any]]

MOST_CYCLES = 1_000_000
"""Cycles times chips up to which layers are compared: the interpreter takes minutes for these."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the outputs match; the keys that `--json` gets, and the text."""

    match: bool
    data: dict[str, Any]
    text: str


def judge(
    model: Path,
    program: Program,
    inputs: Tensors,
    outputs: Tensors,
    rtol: float | None,
    atol: float | None,
) -> Verdict:
    """Compare the outputs of a run, or of a batch of runs, with onnxruntime's.

    If they do not match, the layers of the first run that does not are compared as well. Raises
    `UsageError` or `MalformedFile` if the reference cannot be run or is not that of the program.
    """
    reference = run_reference(model, program, inputs)
    missing = [name for name in outputs if name not in reference]
    if missing:
        raise UsageError(
            "compare-output", f"the reference has no output {missing[0]!r}", where=model.name
        )
    parts = {
        name: compare(ours, reference[name], rtol, atol, name) for name, ours in outputs.items()
    }
    worst = Comparison.worst(list(parts.values()))
    rows = [{"output": name, **part.as_dict()} for name, part in parts.items()]
    match = worst.mismatched == 0
    data: dict[str, Any] = {"match": match, **worst.as_dict(), "reference": "onnxruntime"}
    data["by_output"] = {row["output"]: row for row in rows}
    columns = ("output", "max_abs", "max_rel", "max_ulp", "mismatched", "total")
    answer = "match" if match else "do not match"
    text = f"\n{table_text(rows, columns)}\n\noutputs {answer} onnxruntime's"
    if match:
        return Verdict(match, data, text)
    if program.cycles * program.chips > MOST_CYCLES:
        why = f"{program.cycles:,} cycles on {program.chips} chips are too many to interpret"
        return Verdict(match, data | layers_as_data(None), f"{text}\n\nlayers not compared: {why}")
    one = _first_bad(program, inputs, outputs, reference, rtol, atol)
    layers = compare_layers(model, program, one, rtol, atol)
    return Verdict(match, data | layers_as_data(layers), f"{text}\n\n{layers_text(layers)}")


def _first_bad(
    program: Program,
    inputs: Tensors,
    outputs: Tensors,
    reference: Tensors,
    rtol: float | None,
    atol: float | None,
) -> Tensors:
    """The inputs of the first run of a batch whose outputs do not match; of the one run there is.

    A tolerance that depends on the range of an output is smaller for one run than for all.
    """
    batched = any(np.ndim(inputs[b.name]) > len(b.shape) for b in program.inputs)
    if not batched:
        return inputs
    runs = range(len(next(iter(inputs.values()))))
    bad = (
        run
        for run in runs
        for name, ours in outputs.items()
        if compare(ours[run], reference[name][run], rtol, atol, name).mismatched
    )
    first = next(bad, 0)
    return {name: value[first] for name, value in inputs.items()}
