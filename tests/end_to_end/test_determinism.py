"""Same model, machine and options: same bytes, in any process and any order of the ONNX file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

from clockstep_compiler import Options, compile_model
from clockstep_isa import load_machine, program_sha256
from tests.support.machines import MACHINES
from tests.support.models import ACTIVATIONS, build, mlp, permuted
from tests.support.quantized import qdq_mlp


def branches(rng: np.random.Generator) -> ModelProto:
    """Products of one input side by side, joined in the end: nodes have many valid orders."""
    weights = {f"w{i}": rng.normal(size=(20, 18)).astype(np.float32) for i in range(4)}
    nodes = []
    for i in range(4):
        nodes += [
            helper.make_node("MatMul", ["x", f"w{i}"], [f"p{i}"], f"matmul{i}"),
            helper.make_node(("Relu", "Neg", "Tanh", "Abs")[i], [f"p{i}"], [f"a{i}"], f"op{i}"),
        ]
    nodes += [
        helper.make_node("Max", ["a0", "a1"], ["left"], "left"),
        helper.make_node("Mul", ["a2", "a3"], ["right"], "right"),
        helper.make_node("Sub", ["left", "right"], ["y"], "join"),
    ]
    return build(nodes, {"x": ("float32", (9, 20))}, {"y": ("float32", (9, 18))}, weights)


MODELS = {
    "mlp": mlp(np.random.default_rng(1), (20, 40, 40, 7), 9, ACTIVATIONS),
    "qdq": qdq_mlp(np.random.default_rng(2), (20, 33, 33, 7), 9, ACTIVATIONS, per_channel=True),
    "branches": branches(np.random.default_rng(3)),
}

SCRIPT = """
import sys
from clockstep_compiler import Options, compile_model
from clockstep_isa import load_machine, program_sha256

model, machine, chips = sys.argv[1:]
program = compile_model(model, load_machine(machine), Options(chips=int(chips)))
print(program_sha256(program))
"""


def sha256(model: ModelProto, machine: str, chips: int) -> str:
    target = MACHINES.get(machine) or load_machine(machine)
    return program_sha256(compile_model(model.SerializeToString(), target, Options(chips=chips)))


def in_process(file: Path, machine: str, chips: int, seed: str) -> str:
    """The hash that a fresh process with this hash seed and one thread more or less arrives at."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(file), machine, str(chips)],
        env={**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": seed[-1]},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("name", "machine", "chips"),
    [("mlp", "tiny", 3), ("qdq", "tiny", 2), ("branches", "tiny", 1), ("mlp", "lpu-v1", 1)],
)
def test_hash_seeds(name: str, machine: str, chips: int, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    onnx.save(MODELS[name], file)
    found = {in_process(file, machine, chips, seed) for seed in ("1", "4242")}
    assert found == {sha256(MODELS[name], machine, chips)}


@pytest.mark.parametrize("machine", ["tiny", "ring", "lpu-v1"])
@pytest.mark.parametrize("name", MODELS)
def test_permuted_files(name: str, machine: str) -> None:
    before = sha256(MODELS[name], machine, 1)
    for seed in range(2):
        shuffled = permuted(MODELS[name], seed)
        assert shuffled.SerializeToString() != MODELS[name].SerializeToString()
        assert sha256(shuffled, machine, 1) == before


@pytest.mark.parametrize("name", MODELS)
def test_twice_in_one_process(name: str) -> None:
    """Nothing is left behind, not even by a compilation of something else for something else."""
    before = sha256(MODELS[name], "tiny", 2)
    for other in sorted(set(MODELS) - {name}):
        sha256(MODELS[other], "wide", 1)
    assert sha256(MODELS[name], "tiny", 2) == before


def test_different_models_differ() -> None:
    changed = mlp(np.random.default_rng(4), (20, 40, 40, 7), 9, ACTIVATIONS)
    assert sha256(changed, "tiny", 1) != sha256(MODELS["mlp"], "tiny", 1)
