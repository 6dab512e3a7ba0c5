"""Entries of one program: prefill and decode find the same weights and caches in the same words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import clockstep
from clockstep_compiler import Options, compile_entries, compile_model
from clockstep_isa import Image, Program, load_machine, load_program, program_bytes, save_program
from clockstep_runtime import Session, verify
from samples.llama.decode import CLOSE, Reference, reference
from samples.llama.write import SIZES, llama

PREFILL = 4
ENTRIES = {"prefill": {"tokens": PREFILL}, "decode": {"tokens": 1}}


def sample(weights: str, attention: str, tokens: int | None = None, *, drawn: bool = True) -> bytes:
    """A model of two layers and a context of 16, of any number of tokens."""
    sizes = SIZES["tiny"]
    model = llama(
        sizes, context=16, tokens=tokens, weights=weights, attention=attention, drawn=drawn
    )
    return model.SerializeToString()


def follow(session: Session, wanted: Reference) -> float:
    """Prefill twice, then decode what is left; the greatest error as a part of the range."""
    starts = [0, PREFILL, *range(2 * PREFILL, len(wanted.logits))]
    found = []
    for at in starts:
        count = PREFILL if at < 2 * PREFILL else 1
        tokens = np.array([wanted.tokens[at : at + count]])
        x = {"input_ids": tokens, "position": np.array([at])}
        found += list(session.run(x, entry="prefill" if count > 1 else "decode")["logits"][0])
    return float(
        max(np.abs(a - b).max() / np.ptp(b) for a, b in zip(found, wanted.logits, strict=True))
    )


@pytest.mark.parametrize(
    ("weights", "attention", "precision", "machine", "chips"),
    [
        ("float32", "onnx", "exact", "tiny", None),
        ("float16", "contrib", "fp16", "tiny", 2),
        ("int8", "onnx", "auto", "lpu-v1", 1),
        ("int4", "contrib", "auto", "tiny", None),
    ],
)
def test_decode_goes_on_where_prefill_left(
    weights: str, attention: str, precision: str, machine: str, chips: int | None
) -> None:
    options = Options(precision=precision, effort="fast", chips=chips)
    model = sample(weights, attention)
    program = compile_entries(model, load_machine(machine), options, ENTRIES)
    prompt = np.random.default_rng(1).integers(0, 40, 2 * PREFILL).tolist()
    wanted = reference(sample(weights, attention, 1), prompt, 4)
    fast, stepped = Session(program), Session(program, "reference")
    assert follow(fast, wanted) <= CLOSE[precision]
    assert follow(stepped, wanted) <= CLOSE[precision]
    x = {"input_ids": np.array([[7]]), "position": np.array([11])}
    one, two = (s.run(x, entry="decode")["logits"] for s in (fast, stepped))
    assert one.tobytes() == two.tobytes()


def compiled(weights: str = "float16", *, drawn: bool = True) -> Program:
    options = Options(effort="fast", weights=drawn)
    model = sample(weights, "contrib", drawn=drawn)
    return compile_entries(model, load_machine("tiny"), options, ENTRIES)


def test_weights_are_there_once() -> None:
    machine, options = load_machine("tiny"), Options(effort="fast")
    program = compiled()
    words = [entry.image.words for entry in program.entries.values()]
    assert len(set(words)) == 1
    alone = [
        compile_model(sample("float16", "contrib", tokens), machine, options).image.words
        for tokens in (PREFILL, 1)
    ]
    assert words[0] < 1.1 * max(alone)
    whole = len(program_bytes(program))
    assert whole < sum(len(program_bytes(entry)) for entry in program.entries.values())


def test_entries_without_weights_take_as_long() -> None:
    drawn, absent = compiled("int8"), compiled("int8", drawn=False)
    assert [e.cycles for e in drawn.entries.values()] == [e.cycles for e in absent.entries.values()]
    assert np.array_equal(drawn.image.regions, absent.image.regions)


def test_stages_of_all_entries_lie_alike(tmp_path: Path) -> None:
    """A layer a chip, of more chips than a node has, in prefill as in decode."""
    sizes = replace(SIZES["tiny"], layers=6)
    model = llama(sizes, context=8, tokens=None, weights="float16").SerializeToString()
    machine, options = load_machine("tiny"), Options(effort="fast", chips=8)
    assert machine.system.chips_per_node < 8
    program = compile_entries(model, machine, options, ENTRIES)
    assert verify(program).ok
    assert len(program.info["stages"]) == len(program.others[0].info["stages"]) > 6
    save_program(program, tmp_path / "stages.lpu")
    again = load_program(tmp_path / "stages.lpu")
    prompt = [3, 1, 4, 1, 5]
    one = llama(sizes, context=8, tokens=1, weights="float16").SerializeToString()
    wanted = reference(one, prompt, 3)
    session = Session(again)
    x = {"input_ids": np.array([prompt[:PREFILL]]), "position": np.array([0])}
    found = list(session.run(x, entry="prefill")["logits"][0])
    for at in range(PREFILL, len(wanted.logits)):
        x = {"input_ids": np.array([wanted.tokens[at : at + 1]]), "position": np.array([at])}
        found += list(session.run(x, entry="decode")["logits"][0])
    for have, want in zip(found, wanted.logits, strict=True):
        assert np.abs(have - want).max() <= CLOSE["fp16"] * np.ptp(want)


def test_three_entries() -> None:
    entries = {**ENTRIES, "pair": {"tokens": 2}}
    options = Options(effort="fast")
    program = compile_entries(sample("float16", "onnx"), load_machine("lpu-v1"), options, entries)
    assert list(program.entries) == ["prefill", "decode", "pair"]
    assert verify(program).ok
    session = Session(program)
    tokens, want = [3, 1, 4, 1, 5, 9], []
    for at, token in enumerate(tokens):
        x = {"input_ids": np.array([[token]]), "position": np.array([at])}
        want.append(session.run(x, entry="decode")["logits"][0, 0])
    session.reset()
    for name, at, count in (("pair", 0, 2), ("prefill", 2, 4)):
        x = {"input_ids": np.array([tokens[at : at + count]]), "position": np.array([at])}
        have = session.run(x, entry=name)["logits"][0]
        assert np.abs(have - want[at : at + count]).max() <= 2e-2 * np.ptp(want)


def test_a_file_of_entries(tmp_path: Path) -> None:
    program = compiled()
    path = tmp_path / "program.lpu"
    save_program(program, path)
    again = load_program(path)
    assert program_bytes(again) == program_bytes(program)
    decode = again.entry("decode")
    assert decode.cycles == program.others[0].cycles
    assert not decode.others
    with pytest.raises(clockstep.UsageError, match="prefill, decode"):
        clockstep.load(path, entry="generate")
    x = {"input_ids": np.array([[3]]), "position": np.array([0])}
    one = Session(decode).run(x)["logits"]
    assert one.tobytes() == Session(again).run(x, entry="decode")["logits"].tobytes()


def test_an_entry_that_harms_the_image_is_found() -> None:
    program = compiled()
    spoilt = program.others[0]
    written = next(p for b in program.outputs[:1] for p in b.layouts[0].pieces.tolist())
    place = [written[5], written[6], written[7], 1]
    regions = np.concatenate([program.image.regions, [place]])
    assert program.image.data is not None
    data = np.concatenate([program.image.data, program.image.data[:1]])
    image = Image(regions, data)
    bad = replace(program, image=image, others=(replace(spoilt, image=image),))
    codes = {violation.code for violation in verify(bad).violations}
    assert "entry-image" in codes
    with pytest.raises(clockstep.ScheduleViolation):
        Session(bad)


def test_entries_have_the_same_states() -> None:
    program = compiled()
    bad = replace(program, others=(replace(program.others[0], states=()),))
    assert {violation.code for violation in verify(bad).violations} == {"entry-states"}


def test_states_that_entries_want_otherwise_are_refused() -> None:
    """With one row the cache is read as it lies, with two its heads are rows of their own."""
    model = _transposing()
    options = Options(effort="fast", states={"past": "present"})
    with pytest.raises(clockstep.UsageError, match="past"):
        compile_entries(model, load_machine("tiny"), options, {"a": {"n": 1}, "b": {"n": 2}})


def _transposing() -> ModelProto:
    """The state is read as one dimension says: [n, 4] times as many columns."""
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Add", ["y", "past"], ["present"]),
    ]
    graph = helper.make_graph(
        nodes,
        "states",
        [info("x", TensorProto.FLOAT, ("n", 8)), info("past", TensorProto.FLOAT, ("n", 4))],
        [info("present", TensorProto.FLOAT, ("n", 4))],
        [numpy_helper.from_array(np.eye(8, 4, dtype=np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
