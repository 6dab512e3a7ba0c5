"""Language models as `samples/llama/write.py` writes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import save_model

from clockstep_compiler import Options, compile_model
from clockstep_isa import MalformedFile, load_machine
from samples.llama.decode import CLOSE, decoded, reference
from samples.llama.write import FILE, SIZES, WEIGHTS, Sizes, llama
from tests.support.endtoend import expected


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("name", ["tiny", "tiny-moe"])
def test_spellings_agree(weights: str, name: str) -> None:
    """A layer of attention as onnxruntime has it is the one in ONNX's own operators."""
    found = []
    for attention in ("contrib", "onnx"):
        model = llama(SIZES[name], context=8, tokens=3, weights=weights, attention=attention)
        rng = np.random.default_rng(0)
        kind = np.float16 if weights == "float16" else np.float32
        inputs = {
            value.name: rng.standard_normal((1, 1, 8, 16)).astype(kind)
            for value in model.graph.input[2:]
        }
        inputs |= {"input_ids": np.array([[3, 1, 4]]), "position": np.array([2])}
        found.append(expected(model, inputs))
    one, two = found
    assert list(one) == list(two)
    close = 3e-2 if weights == "float16" else 1e-4
    for have, want in zip(one.values(), two.values(), strict=True):
        rows = slice(None) if have.ndim == 3 else slice(5)  # those beyond are not valid
        assert np.ptp(have) > 0
        difference = have[..., rows, :] - want[..., rows, :]
        assert np.abs(difference).max() <= close * np.abs(want).max()


def test_absent_weights_take_the_same_cycles() -> None:
    """Without `weights` those that are not there are not missed, and nothing is faster for it."""
    machine = load_machine("tiny")
    models = [
        llama(SIZES["tiny"], context=8, weights="int8", drawn=drawn) for drawn in (True, False)
    ]
    options = Options(effort="fast", weights=False)
    drawn, absent = (compile_model(m.SerializeToString(), machine, options) for m in models)
    assert drawn.cycles == absent.cycles
    assert absent.timing_only
    with pytest.raises(MalformedFile):
        compile_model(models[1].SerializeToString(), machine, Options(effort="fast"))


def test_decoding_goes_as_onnxruntime_does() -> None:
    """Token by token along the reference; a wrong token or state would be counted."""
    model = llama(SIZES["tiny"], context=8, weights="int8").SerializeToString()
    wanted = reference(model, [3, 1], 3)
    machine = load_machine("tiny")
    options = Options(effort="fast", precision="exact")
    program = compile_model(model, machine, options)
    apart = compile_model(model, machine, replace(options, states={}))
    done = decoded(program, apart, wanted)
    assert (done.same, done.chosen, done.apart) == (3, 3, 0)
    assert done.error <= CLOSE["exact"]
    others = wanted._replace(tokens=[*wanted.tokens[:2], *(t ^ 1 for t in wanted.tokens[2:])])
    assert decoded(program, None, others).same < 3


@pytest.mark.parametrize("chips", [1, 2])
def test_many_heads_share_few_on_several_chips(tmp_path: Path, chips: int) -> None:
    """Two layers of the shape of Llama-2-70B: eight queries a key, a scale for each column.

    The weights lie beside the model, as they have to where they take gigabytes.
    """
    sizes = Sizes(layers=2, hidden=32, heads=8, kv_heads=1, ffn=96, vocab=40, head_size=16)
    path = tmp_path / "model.onnx"
    save_model(
        llama(sizes, context=8, weights="int8"), path, save_as_external_data=True, location=FILE
    )
    wanted = reference(path, [3, 1], 3)
    options = Options(effort="fast", chips=chips, precision="auto")
    done = decoded(compile_model(path, load_machine("tiny"), options), None, wanted)
    assert done.error <= 1e-2
    assert np.ptp(wanted.logits, axis=1).min() > 0
