"""Judge a QDQ network against exact arithmetic: `python -m tests.acceptance.quantized_oracle FILE`.

Three questions. Is every quantized tensor within a step of the exact value, given the tensors
before it as they were? From the input on, is our result no further from exact evaluation than
onnxruntime's? Is the arg-max the exact one wherever the exact margin exceeds a step? The exit code
is 1 if an answer is no. Exact arithmetic on large networks takes minutes and gigabytes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from clockstep_compiler import Options, compile_model
from clockstep_isa import load_machine
from clockstep_runtime import Session
from tests.support.endtoend import expected
from tests.support.models import random_inputs
from tests.support.oracle import as_float, end_to_end, expose_quantized, layerwise, quantized_names

__all__ = ["Verdict", "judge"]

Array = NDArray[Any]
Arrays = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Distances in quantization steps. `margin` is by how much the exact arg-max leads, in steps.

    `worst` is the largest distance in a layer, `differing` of `elements` are at one at all; `ours`
    and `theirs` are the steps in all layers together from the input on.
    """

    elements: int
    differing: int
    worst: int
    ours: int
    theirs: int
    margin: float
    same_class: bool

    @property
    def good(self) -> bool:
        """Whether all three answers are yes."""
        decided = self.same_class or self.margin <= 1
        return self.worst <= 1 and self.ours <= self.theirs and decided


def judge(
    model: ModelProto, inputs: Arrays, ours: Arrays, theirs: Arrays, exact: Any = None
) -> Verdict:
    """Compare the outputs of `expose_quantized(model)`, ours and onnxruntime's."""
    steps = [_distance(want, ours[name]) for name, want in layerwise(model, inputs, ours).items()]
    quantized, results = exact or end_to_end(model, inputs)
    name = next(o.name for o in model.graph.output if o.name in results)
    wanted = as_float(results[name]).ravel()
    best, second = (int(k) for k in np.argsort(wanted)[::-1][:2])
    return Verdict(
        elements=sum(step.size for step in steps),
        differing=sum(int(np.count_nonzero(step)) for step in steps),
        worst=max((int(step.max(initial=0)) for step in steps), default=0),
        ours=sum(int(_distance(want, ours[n]).sum()) for n, want in quantized.items()),
        theirs=sum(int(_distance(want, theirs[n]).sum()) for n, want in quantized.items()),
        margin=float((wanted[best] - wanted[second]) / _step(model, wanted)),
        same_class=int(np.argmax(ours[name])) == best,
    )


def _distance(want: Array, have: Array) -> NDArray[np.int64]:
    return np.abs(np.asarray(want, np.int64) - np.asarray(have, np.int64))


def _step(model: ModelProto, wanted: NDArray[np.float64]) -> float:
    """The distance between neighbouring results, where these are dequantized integers."""
    maker = next(node for node in model.graph.node if node.output[0] == model.graph.output[0].name)
    scales = {t.name: t for t in model.graph.initializer}
    if maker.op_type == "DequantizeLinear" and maker.input[1] in scales:
        return float(onnx.numpy_helper.to_array(scales[maker.input[1]]).max())
    return float(np.abs(wanted).max()) / 127


def _command() -> int:
    parser = argparse.ArgumentParser(description="Judge QDQ networks against exact arithmetic.")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--machine", default="lpu-v1")
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args()
    good = True
    for file in settings.files:
        model = expose_quantized(onnx.load(file))
        inputs = random_inputs(model, np.random.default_rng(settings.seed))
        program = compile_model(
            model.SerializeToString(), load_machine(settings.machine), Options(effort="fast")
        )
        print(f"{file}: {program.cycles} cycles, {len(quantized_names(model))} quantized tensors")
        outputs = Session(program).execute(inputs).outputs
        verdict = judge(model, inputs, outputs, expected(model, inputs))
        print(f"{file}: {verdict}: {'good' if verdict.good else 'BAD'}", flush=True)
        good = good and verdict.good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(_command())
