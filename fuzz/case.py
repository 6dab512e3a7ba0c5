"""One case: a random model, a machine and options; and everything that must hold of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto

from clockstep_compiler import Options, compile_model
from clockstep_isa import BY_OPCODE, ClockstepError, Machine, Program, UsageError, load_machine
from clockstep_runtime import Session, verify
from fuzz.bounds import HALF, WHOLE, Storage
from fuzz.builder import Array, Graph, NoReference, Skip
from fuzz.chains import chain, steps_off
from fuzz.operators import ROWS
from fuzz.truth import differences, truth
from tests.support.bounds import assert_sound
from tests.support.endtoend import assert_same_bits, expected, round_trip
from tests.support.machines import MACHINES, random_machine

__all__ = ["Case", "Tally", "Wrong", "cases", "check"]

OPSETS = (13, 17, 18, 21, 22, 24)
_DTYPES = (
    "float32", "int32", "int8", "float32", "uint8", "float16", "int16", "uint16", "float64"
)  # fmt: skip


class Wrong(AssertionError):
    """A case that does not hold."""


@dataclass(frozen=True, slots=True)
class Case:
    """A model with its inputs, and how to compile it.

    `place` names the machine for people; `exact` models are quantized chains.
    """

    model: ModelProto
    inputs: Mapping[str, Array]
    machine: Machine
    options: Options
    place: str
    exact: bool

    def __repr__(self) -> str:
        shapes = {name: f"{v.dtype}{list(v.shape)}" for name, v in self.inputs.items()}
        nodes = [
            f"{n.op_type}({', '.join(n.input)}) -> {n.output[0]}" for n in self.model.graph.node
        ]
        return f"Case({shapes}; {'; '.join(nodes)}; {self.place}; {self.options})"


@dataclass(slots=True)
class Tally:
    """What happened, counted."""

    cases: int = 0
    agreed: int = 0
    elements: int = 0
    unbounded: int = 0
    operators: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    machines: Counter[str] = field(default_factory=Counter)
    dtypes: Counter[str] = field(default_factory=Counter)
    instructions: Counter[str] = field(default_factory=Counter)


@st.composite
def machines(draw: st.DrawFn) -> tuple[Machine, str]:
    """A machine and its name: `tiny` and its relatives, random ones, now and then lpu-v1."""
    kind = draw(st.sampled_from(("tiny", *MACHINES, "random", "random", "random", "lpu-v1")))
    if kind == "random":
        seed = draw(st.integers(0, 999))
        return random_machine(np.random.default_rng(seed)), f"random {seed}"
    return (MACHINES[kind] if kind in MACHINES else load_machine(kind)), kind


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A model, the machine and the options; one model in six is a quantized chain."""
    graph = Graph(draw, draw(st.sampled_from(OPSETS)))
    exact = draw(st.integers(0, 5)) == 5
    model = chain(graph) if exact else _any_graph(graph)
    used = {value.name for value in model.graph.input}
    machine, place = draw(machines())
    most = min(3, machine.max_chips)
    precisions = ("auto", "int8") if exact else ("auto", "auto", "exact", "fp16", "exact", "int8")
    options = Options(
        chips=draw(st.sampled_from((None, None, *range(1, most + 1)))),
        precision=draw(st.sampled_from(precisions)),
        effort=draw(st.sampled_from(("fast",) * 8 + ("standard",) * 2 + ("high",))),
    )
    inputs = {name: value for name, value in graph.inputs.items() if name in used}
    return Case(model, inputs, machine, options, place, exact)


def _any_graph(graph: Graph) -> ModelProto:
    """Up to a dozen nodes of any operators, with one to three outputs."""
    draw = graph.draw
    graph.fresh(graph.shape(), draw(st.sampled_from(_DTYPES)), constant=False)
    for row in draw(st.lists(st.sampled_from(ROWS), min_size=1, max_size=12)):
        if graph.integer(0, 9) == 9:
            graph.fresh(graph.shape((1, 3)), draw(st.sampled_from(_DTYPES)), constant=False)
        try:
            row.make(graph, row.op)
        except Skip:
            continue
    made = [node.output[0] for node in graph.nodes] or list(graph.tensors)
    outputs = [made[-1], *draw(st.lists(st.sampled_from(made), max_size=2, unique=True))]
    return graph.model(sorted(set(outputs), key=outputs.index))


def check(case: Case, tally: Tally) -> None:
    """Compile and run a case; raises `Wrong` where anything is not as it should be."""
    tally.cases += 1
    tally.machines[case.place.partition(" ")[0]] += 1
    onnx.checker.check_model(case.model)
    try:
        program = compile_model(case.model.SerializeToString(), case.machine, case.options)
    except ClockstepError as error:
        _refusal(error, tally)
        return
    try:
        outputs = _run(program, case.inputs)
    except UsageError as error:  # 64-bit integers that are no indices may be out of range
        _refusal(error, tally)
        return
    try:
        wanted = truth(case.model, case.inputs, _storage(case))
    except NoReference:
        tally.refused["by onnx's evaluator"] += 1
        return
    problems = differences(outputs, wanted) or _against_runtime(case, outputs)
    if case.exact:
        problems += steps_off(case.model, dict(case.inputs), outputs)
    if problems:
        raise Wrong("; ".join(problems))
    _count(case, outputs, wanted, tally)
    used = np.unique(program.code.opcode).tolist()
    tally.instructions.update(BY_OPCODE[opcode].name for opcode in used)


def _storage(case: Case) -> Storage:
    """float32 is float32 in exact programs; float16, if there is any, is what it is."""
    half = TensorProto.FLOAT16
    values = (*case.model.graph.input, *case.model.graph.output)
    named = {t.data_type for t in case.model.graph.initializer} | {
        v.type.tensor_type.elem_type for v in values
    }
    named |= {a.i for n in case.model.graph.node for a in n.attribute if a.name == "to"}
    return WHOLE if case.options.precision == "exact" and half not in named else HALF


def _refusal(error: ClockstepError, tally: Tally) -> None:
    if error.exit_code not in (2, 3, 4) or not error.diagnostic.message:
        raise Wrong(f"compile: {error}") from error
    tally.refused[f"{type(error).__name__} {error.diagnostic.code}"] += 1


def _run(program: Program, inputs: Mapping[str, Array]) -> dict[str, Array]:
    report = verify(program)
    if not report.ok:
        raise Wrong(f"the verifier refuses: {report.violations[0]}")
    assert_sound(program)
    round_trip(program)
    fast = Session(program, engine="fast").execute(inputs)
    reference = Session(program, engine="reference").execute(inputs)
    assert_same_bits(fast, reference)
    if reference.cycles != program.cycles:
        raise Wrong(f"{program.cycles} cycles promised, {reference.cycles} executed")
    return dict(reference.outputs)


_ADDED_UP = ("ReduceL1", "ReduceProd", "ReduceSum", "ReduceSumSquare")


def _against_runtime(case: Case, outputs: Mapping[str, Array]) -> list[str]:
    """Integers without floats in between: onnxruntime has the same, to the last bit."""
    kinds = {v.dtype.kind for v in (*case.inputs.values(), *outputs.values())}
    if kinds - set("biu") or any(n.op_type.endswith("Linear") for n in case.model.graph.node):
        return []
    if any(n.op_type.startswith(("Cast", "QLinear")) for n in case.model.graph.node):
        return []
    if any(n.op_type in _ADDED_UP for n in case.model.graph.node):
        return []  # onnxruntime's result is a double that it clamps; onnx's evaluator wraps
    if any(v.size == 0 for v in case.inputs.values()):
        return []  # onnxruntime leaves integer sums of nothing as its memory was
    want = expected(case.model, case.inputs)
    return [
        f"{n}: onnxruntime differs" for n, v in outputs.items() if not np.array_equal(v, want[n])
    ]


def _count(case: Case, outputs: Mapping[str, Array], wanted: Mapping[str, tuple[Array, Array]],
           tally: Tally) -> None:  # fmt: skip
    tally.agreed += 1
    tally.operators.update({node.op_type for node in case.model.graph.node})
    tally.dtypes.update({str(value.dtype) for value in (*case.inputs.values(), *outputs.values())})
    for name, value in outputs.items():
        tally.elements += value.size
        tally.unbounded += int(np.isinf(wanted[name][1]).sum())
