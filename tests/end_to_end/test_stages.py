"""Models of equal layers on more chips than a node has: stages, each kind compiled once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing.context import BaseContext
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from benchmarks.builder import Net
from clockstep_compiler import Options, compile_model
from clockstep_compiler.frontend import import_model
from clockstep_compiler.graph import Graph
from clockstep_compiler.pipeline import compile_graph
from clockstep_compiler.pipelined import pipelined
from clockstep_compiler.stages import stages
from clockstep_isa import DoesNotFit, Machine, Program, load_machine
from clockstep_isa.table import BY_NAME
from clockstep_runtime import Session, verify
from tests.support.decoder import Decoder
from tests.support.endtoend import assert_close, expected, run_checked
from tests.support.machines import with_words

LAYERS = 6


def decoder_inputs(decoder: Decoder) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    caches = {n: rng.standard_normal(s) for n, s in decoder.caches.items()}
    whole = {n: c.astype(np.float16).astype(np.float32) for n, c in caches.items()}
    return {"tokens": np.array([[5]]), "length": np.array([4]), **whole}


def residual(rows: int, columns: int, factors: tuple[float, ...] = (2,) * LAYERS) -> ModelProto:
    """A layer a factor; they share a mask which is computed once, and is sent to all of them."""
    net = Net("residual")
    x = net.input("x", (rows, columns))
    mask = net.op("MatMul", net.input("m", (rows, 20)), net.normal((20, columns), 0.2))
    for factor in factors:
        y = net.op("MatMul", x, net.normal((columns, columns), 0.1))
        y = net.op("Mul", y, net.constant(np.array(factor)))
        x = net.op("Add", x, net.op("Tanh", net.op("Mul", y, mask)))
    net.output(net.op("MatMul", x, net.normal((columns, 10), 0.2)), "y", (rows, 10))
    return net.model()


def masked(rows: int, width: int) -> ModelProto:
    """Layers that share a mask of many rows, which follows from a position alone."""
    net = Net("masked")
    x, position = net.input("x", (rows, width)), net.input("position", (1,))
    mask = net.op("Less", net.constant(np.arange(rows).reshape(-1, 1)), position)
    for _ in range(LAYERS):
        y = net.op("MatMul", x, net.normal((width, width), 0.1))
        x = net.op("Add", x, net.op("Where", mask, net.op("Tanh", y), net.constant(np.zeros(()))))
    net.output(x, "y", (rows, width))
    return net.model()


def counted(model: ModelProto, machine: Machine, options: Options) -> tuple[Program, list[Graph]]:
    """A program in stages, and the graphs that were compiled for it."""
    found: list[Graph] = []

    def compile_one(graphs: Sequence[Graph], ones: Sequence[Options]) -> list[Program]:
        found.append(graphs[0])
        return [compile_graph(graphs[0], machine, ones[0])]

    programs = pipelined([import_model(model, options)], machine, [options], compile_one)
    assert programs is not None
    return programs[0], found


def test_a_layer_a_chip() -> None:
    """Chips of two nodes, so that some of what is sent passes through others."""
    decoder = Decoder("opset", layers=LAYERS)
    model, inputs = decoder.model(1), decoder_inputs(decoder)
    run = run_checked(model, load_machine("tiny"), inputs, chips=LAYERS)
    assert run.program.chips == LAYERS > run.program.machine.system.chips_per_node
    assert all(chip["weights"] for chip in run.program.info["chip_bytes"])
    assert_close(run.outputs, expected(model, inputs))


def test_stages_of_several_chips() -> None:
    """They stand where links join chips as in the first node, and chips between them are idle."""
    decoder, machine = Decoder("opset", layers=4), with_words("tiny", 24)
    model, inputs = decoder.model(1), decoder_inputs(decoder)
    run = run_checked(model, machine, inputs)
    placed = [(row[0], row[1]) for row in run.program.info["stages"]]
    assert max(chips for _, chips in placed) > 1
    size = machine.system.chips_per_node
    assert all(first % size + chips <= size for first, chips in placed)
    assert_close(run.outputs, expected(model, inputs))


def test_ranks_share_what_one_chip_cannot_hold() -> None:
    """Each has an equal part of the weights of a layer, and what is sent on is whole."""
    model, machine = residual(5, 128), with_words("tiny", 48)
    rng = np.random.default_rng(4)
    shapes = {"x": (5, 128), "m": (5, 20)}
    inputs = {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}
    run = run_checked(model, machine, inputs)
    layers = [row for row in run.program.info["stages"] if row[1] > 1]
    assert len(layers) >= LAYERS - 2
    weights = [chip["weights"] for chip in run.program.info["chip_bytes"]]
    assert all(len({*weights[first : first + n]}) == 1 for first, n, *_ in layers[1:-1])
    assert_close(run.outputs, expected(model, inputs))


def test_masks_are_made_again_rather_than_sent() -> None:
    model, machine = masked(20, 16), load_machine("tiny")
    for stage in stages(import_model(model, Options()), Options(), LAYERS):
        assert "position" in stage.graph.inputs
        assert len(stage.graph.inputs) == 2
    rng = np.random.default_rng(5)
    inputs = {"x": rng.standard_normal((20, 16)).astype(np.float32), "position": np.float32([7])}
    run = run_checked(model, machine, inputs, chips=LAYERS)
    assert_close(run.outputs, expected(model, inputs))


@pytest.mark.parametrize("chips", [5, 8, 10])
def test_fewer_and_more_chips_than_layers(chips: int) -> None:
    model = residual(5, 40)
    rng = np.random.default_rng(3)
    inputs = {
        name: rng.standard_normal((5, columns)).astype(np.float32)
        for name, columns in (("x", 40), ("m", 20))
    }
    run = run_checked(model, load_machine("tiny"), inputs, chips=chips)
    assert run.program.chips == chips
    assert_close(run.outputs, expected(model, inputs))


def test_each_kind_is_compiled_once() -> None:
    """Embedding, head, and layers after the first, which has what all share, are each one kind."""
    decoder = Decoder("opset", layers=LAYERS)
    options = Options(chips=LAYERS + 2, weights=False, effort="fast")
    program, graphs = counted(decoder.model(1), load_machine("tiny"), options)
    assert len(graphs) <= 4
    assert verify(program).ok
    assert {b.name for b in program.inputs} == {"tokens", "length", *decoder.caches}
    gates = [n for n in program.nodes if n.op == "Sigmoid"]
    assert len({n.name for n in gates}) == LAYERS
    assert all(a.end < b.start for a, b in pairwise(gates))


def test_processes_change_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Stages without weights are compiled by several processes where there are cores for them."""
    model, machine = Decoder("opset", layers=LAYERS).model(1), load_machine("tiny")
    options = Options(chips=LAYERS + 2, weights=False, effort="fast")
    compile_model(model, machine, options).save(tmp_path / "alone")
    used: list[int] = []

    class Pool(ProcessPoolExecutor):
        def __init__(self, workers: int, context: BaseContext) -> None:
            used.append(workers)
            super().__init__(workers, context)

    monkeypatch.setattr("clockstep_compiler.pipelined._FEW_NODES", 1)
    monkeypatch.setattr("clockstep_compiler.pipelined.ProcessPoolExecutor", Pool)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    compile_model(model, machine, options).save(tmp_path / "together")
    assert used == [2]
    assert (tmp_path / "together").read_bytes() == (tmp_path / "alone").read_bytes()


def test_layers_that_differ_are_of_different_forms() -> None:
    """By a number; by their weights only if these are part of the program."""
    counts = []
    for factors in ((2, 2, 2, 2, 2, 2), (2, 2, 2, 3, 2, 2)):
        graph = import_model(residual(5, 40, factors), Options())
        counts.append(len({s.form for s in stages(graph, Options(weights=False), 99)}))
    assert counts[1] == counts[0] + 1 < LAYERS
    assert len({s.form for s in stages(graph, Options(), 99)}) >= LAYERS


def test_models_of_a_node_are_compiled_as_a_whole() -> None:
    """Nothing is sent before the whole of a layer is done only where there is no other way."""
    model = residual(5, 40).SerializeToString()
    machine = load_machine("tiny")
    program = compile_model(model, machine, Options(chips=1, effort="fast"))
    assert not (program.code.opcode == BY_NAME["send"].opcode).any()
    graph = import_model(model, Options())
    chips = machine.system.chips_per_node
    asked: list[Graph] = []

    def refuse(graphs: Sequence[Graph], ones: Sequence[Options]) -> list[Program]:
        asked.extend(graphs)
        raise AssertionError(ones)

    assert pipelined([graph], machine, [Options(chips=chips)], refuse) is None
    assert not asked


def test_stages_of_parts_of_layers() -> None:
    """Fewer stages than layers: some have a part of a layer more, and these come first."""
    options, model = Options(weights=False), Decoder("opset", layers=2 * LAYERS).model(1)
    graph = import_model(model, options)
    layers, parts = stages(graph, options, 99), stages(graph, options, 99, fine=True)
    assert len(parts) > len(layers) + LAYERS
    made = [name for part in parts for node in part.graph.nodes for name in node.outputs]
    assert {name for node in graph.nodes for name in node.outputs} <= set(made)
    most = len(layers) - 2
    fewer = stages(graph, options, most, fine=True)
    assert len(fewer) == most
    sizes = [len(part.graph.nodes) for part in fewer]
    assert max(sizes[1:-1]) in sizes[1:4]
    assert len({part.form for part in fewer}) < LAYERS


def test_layers_that_no_node_holds() -> None:
    """Of many nodes nothing is tried as a whole: it says at once what a stage takes."""
    model, machine = residual(2, 640), with_words("tiny", 48)
    with pytest.raises(DoesNotFit, match=r"a stage takes .* chips, and a node has 4") as error:
        compile_model(model.SerializeToString(), machine, Options(weights=False))
    assert "chips_per_node" in error.value.diagnostic.help


def test_states_of_stages() -> None:
    """A cache stays on the chip of its layer, and what one run leaves there is in the next."""
    decoder = Decoder("opset", layers=LAYERS)
    model = decoder.model(1)
    states = {name: f"new_{name}" for name in decoder.caches}
    machine, chips = load_machine("tiny"), LAYERS
    options = Options(chips=chips, states=states, effort="fast")
    session = Session(compile_model(model.SerializeToString(), machine, options))
    assert dict(session.program.states) == states
    caches = {name: np.zeros(shape, np.float32) for name, shape in decoder.caches.items()}
    for position, token in enumerate((3, 1)):
        step = {"tokens": np.array([[token]]), "length": np.array([position + 1])}
        want = expected(model, {**step, **caches})
        have = session.run({**step, **({} if position else caches)})
        assert_close({"logits": have["logits"]}, {"logits": want["logits"]})
        caches = {name: want[f"new_{name}"] for name in caches}
