"""The Python face: what `import clockstep` gives, and the ONNX backend."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.backend.base import Backend

import clockstep
from clockstep.app import VERBS
from clockstep_isa import program_sha256

DIGITS = Path(__file__).parents[2] / "samples" / "digits"


def test_compile_run_save_load(tmp_path: Path) -> None:
    program = clockstep.compile(DIGITS / "digits.onnx", machine="tiny", dim={"N": 2})
    assert program.seconds == program.cycles / 1e6
    path = tmp_path / "digits.lpu"
    program.save(path)
    again = clockstep.load(path)
    assert program_sha256(again) == program_sha256(program)
    assert clockstep.verify(again).ok
    x = np.load(DIGITS / "digits_test.npz")["x"][:4].reshape(2, 2, 64)
    outputs = clockstep.Session(program).run({"x": x})
    single = clockstep.Session(again).run({"x": x[1]})
    assert outputs["scores"].shape == (2, 2, 10)
    assert np.array_equal(outputs["scores"][1], single["scores"])


def test_a_model_may_be_bytes_or_a_proto() -> None:
    path = DIGITS / "digits.onnx"
    made = [
        clockstep.compile(model, machine="tiny", shape={"x": (1, 64)})
        for model in (str(path), path.read_bytes(), onnx.load(path))
    ]
    assert len({program_sha256(p) for p in made}) == 1


def test_set_takes_a_mapping_or_texts() -> None:
    options = {"machine": "tiny", "dim": {"N": 1}, "no_weights": True}
    by_name = clockstep.compile(DIGITS / "digits.onnx", set={"lanes.superlanes": 8}, **options)
    by_text = clockstep.compile(DIGITS / "digits.onnx", set=["lanes.superlanes=8"], **options)
    assert by_name.machine.vector == 32
    assert program_sha256(by_name) == program_sha256(by_text)
    machine = clockstep.load_machine("tiny")
    with pytest.raises(clockstep.UsageError, match="set applies"):
        clockstep.compile(DIGITS / "digits.onnx", machine=machine, set={"mem.banks": 4})


@pytest.mark.parametrize("chips", [0, -1, "many", "", "²"])
def test_wrong_chips(chips: int | str) -> None:
    with pytest.raises(clockstep.UsageError, match="chips"):
        clockstep.compile(DIGITS / "digits.onnx", chips=chips)


def test_every_flag_is_a_keyword_of_the_same_name() -> None:
    for verb, function in (("compile", clockstep.compile), ("check", clockstep.check)):
        flags = {name.rstrip("_") for name in inspect.signature(VERBS[verb]).parameters}
        keywords = set(inspect.signature(function).parameters)
        assert flags - {"output", "listing", "json"} == keywords


def test_one_family_of_exceptions() -> None:
    for name in ("UnsupportedModel", "DoesNotFit", "MalformedFile", "ScheduleViolation", "Fault"):
        assert issubclass(getattr(clockstep, name), clockstep.ClockstepError)
    for name in clockstep.__all__:
        assert hasattr(clockstep, name)


def test_the_backend_is_onnxs() -> None:
    assert issubclass(clockstep.backend, Backend)
    assert clockstep.backend.supports_device("CPU")
    assert not clockstep.backend.supports_device("CUDA")


def test_the_backend_takes_shapes_from_the_inputs() -> None:
    model = onnx.load(DIGITS / "digits.onnx")
    assert clockstep.backend.is_compatible(model, machine="tiny", dim={"N": 1})
    prepared = clockstep.backend.prepare(model, machine="tiny")
    x = np.load(DIGITS / "digits_test.npz")["x"]
    two = prepared.run([x[:2]])
    three = prepared.run({"x": x[:3]})
    assert two.scores.shape == (2, 10)
    assert three[0].shape == (3, 10)
    assert np.allclose(two.scores, three.scores[:2], rtol=5e-3, atol=0.1)
    alone = clockstep.backend.run_model(model, x[:2], machine="tiny")
    assert np.array_equal(alone[0], two[0])
    with pytest.raises(clockstep.UsageError, match="2 inputs given"):
        prepared.run([x, x])
