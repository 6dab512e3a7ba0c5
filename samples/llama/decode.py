"""Decode greedily with a model of the Llama family, and compare every token with onnxruntime.

From the root folder: `python -m samples.llama.decode --help`. Each program runs the same tokens,
those that onnxruntime chooses, and keeps its caches in SRAM; another, of the same model without
states, is handed the caches at each position and has to give the same logits, bit for bit.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import save_model

import clockstep
from samples.llama.write import ATTENTION, FILE, SIZES, WEIGHTS, llama

__all__ = ["CLOSE", "Decoded", "Reference", "decoded", "reference"]

Array = NDArray[Any]
CLOSE = {"exact": 1e-5, "fp16": 2e-2, "auto": 2e-2}
"""By precision, how far a logit may be off, as a part of the range of all logits of a position."""


class Reference(NamedTuple):
    """The token of every position, prompt first, and the logits [positions, vocab] after it."""

    tokens: list[int]
    logits: Array
    prompt: int


class Decoded(NamedTuple):
    """What a program gave: greatest error of a logit as a part of the range, tokens chosen as by
    the reference and those of all that were chosen, positions at which the program without states
    differed, seconds of the host for each token."""

    error: float
    same: int
    chosen: int
    apart: int
    seconds: float


def reference(model: bytes | Path, prompt: list[int], tokens: int) -> Reference:
    """What onnxruntime decodes greedily behind a prompt: `tokens` tokens, one a run.

    Without its optimizations, which would compute weights of a byte in another way.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3  # it warns that caches are copied
    session = ort.InferenceSession(model, options)
    names = [output.name for output in session.get_outputs()]
    kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    caches = {
        value.name: np.zeros(value.shape, kinds[value.type])
        for value in session.get_inputs()
        if value.name.startswith("past")
    }
    given, logits = list(prompt), []
    for position in range(len(prompt) + tokens - 1):
        made = dict(
            zip(names, session.run(names, {**_inputs(given, position), **caches}), strict=True)
        )
        logits.append(made["logits"].ravel())
        caches = {name: made[_present(name)] for name in caches}
        if position >= len(prompt) - 1:
            given.append(int(logits[-1].argmax()))
    return Reference(given, np.array(logits), len(prompt))


def decoded(
    program: clockstep.Program, apart: clockstep.Program | None, wanted: Reference
) -> Decoded:
    """Run a program along the tokens of the reference, and if given the one without states.

    A program with an entry "prefill" has the whole prompt there, and what follows in "decode".
    """
    session, ahead = clockstep.Session(program), list[Array]()
    if "prefill" in program.entries:
        prompt = {
            "input_ids": np.array([wanted.tokens[: wanted.prompt]]),
            "position": np.array([0]),
        }
        ahead = list(session.run(prompt, entry="prefill")["logits"][0])
    other = None if apart is None else clockstep.Session(apart)
    caches = {} if apart is None else _blank(apart)
    error, same, differing, seconds = 0.0, 0, 0, 0.0
    for position, want in enumerate(wanted.logits):
        x = _inputs(wanted.tokens, position)
        start = time.perf_counter()
        entry = "decode" if ahead else None
        have = ahead[position] if position < len(ahead) else _next(session, x, entry)
        seconds += time.perf_counter() - start
        off = np.abs(have.astype(float) - want.astype(float)).max()
        error = max(error, float(off / np.ptp(want.astype(float))))
        if position >= wanted.prompt - 1:
            same += int(have.argmax()) == wanted.tokens[position + 1]
        if other is not None:
            made = other.run({**x, **caches})
            differing += made["logits"].tobytes() != have.tobytes()
            caches = {name: made[_present(name)] for name in caches}
    count = len(wanted.logits)
    return Decoded(error, same, count - wanted.prompt + 1, differing, seconds / count)


def _next(session: clockstep.Session, x: Mapping[str, Array], entry: str | None) -> Array:
    return np.asarray(session.run(x, entry=entry)["logits"]).ravel()


def _inputs(tokens: list[int], position: int) -> dict[str, Array]:
    return {"input_ids": np.array([[tokens[position]]]), "position": np.array([position])}


def _present(past: str) -> str:
    return past.replace("past_key_values", "present")


def _blank(program: clockstep.Program) -> Mapping[str, Array]:
    """Caches before the first token."""
    return {b.name: np.zeros(b.shape, b.dtype) for b in program.inputs if b.name.startswith("past")}


def _compare(given: argparse.Namespace, model: Path, wanted: Reference) -> bool:
    """Compile and run for each number of chips and precision; whether all is as it should be."""
    fine = True
    print(
        "| chips | precision | cycles a token | tokens/s | error | tokens | apart | compile | run |"
    )
    for chips in given.chips:
        for precision in given.precision:
            options = {"chips": chips, "precision": precision, "effort": given.effort}
            options |= {"machine": given.machine}
            entries = {"prefill": {"tokens": given.prompt}, "decode": {"tokens": 1}}
            start = time.perf_counter()
            try:
                entry = {"entry": entries} if given.prefill else {"dim": {"tokens": 1}}
                program = clockstep.compile(model, **options, **entry)
            except clockstep.DoesNotFit as error:
                print(f"| {chips} | {precision} | {error.diagnostic.message} |", flush=True)
                continue
            spent = time.perf_counter() - start
            one = options | {"dim": {"tokens": 1}, "state": {}}
            no_apart = given.no_apart or given.prefill  # which may have sums in another order
            apart = None if no_apart else clockstep.compile(model, **one)
            done = decoded(program, apart, wanted)
            tokens = done.same == done.chosen or precision != "exact"
            fine &= tokens and not done.apart and done.error <= CLOSE[precision]
            token = program.entries.get("decode", program)
            cells = [chips, precision, f"{token.cycles:,}", f"{1 / token.seconds:,.0f}"]
            cells += [f"{done.error:.1e}", f"{done.same} of {done.chosen}", done.apart]
            cells += [f"{spent:.0f} s", f"{done.seconds:.2f} s"]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)
            if given.prefill:
                print(f"prefill: {program.cycles:,} cycles, {program.seconds * 1e6:,.0f} us")
    return fine


def main() -> None:
    """Write the model, decode with onnxruntime, then with every program; exit status 1 if any
    logit, token or state is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", choices=SIZES, default="smollm2-135m")
    parser.add_argument("--layers", type=int, help="another number of layers")
    parser.add_argument("--vocab", type=int, help="another number of tokens that there are")
    parser.add_argument("--context", type=int, default=128, help="rows of the caches")
    parser.add_argument("--weights", choices=WEIGHTS, default="float32")
    parser.add_argument("--attention", choices=ATTENTION, default="contrib")
    parser.add_argument("--prompt", type=int, default=32, help="tokens of the prompt, random")
    parser.add_argument("--tokens", type=int, default=64, help="tokens that are chosen")
    parser.add_argument("--chips", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--precision", choices=CLOSE, nargs="+", default=["exact", "fp16"])
    parser.add_argument("--machine", default="lpu-v1")
    parser.add_argument("--effort", default="fast")
    parser.add_argument("--prefill", action="store_true", help="the prompt in one run")
    parser.add_argument("--no-apart", action="store_true", help="no program without states")
    given = parser.parse_args()
    own = {name: getattr(given, name) for name in ("layers", "vocab")}
    sizes = dataclasses.replace(SIZES[given.model], **{n: v for n, v in own.items() if v})
    prompt = np.random.default_rng(0).integers(0, sizes.vocab, given.prompt).tolist()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        made = {"weights": given.weights, "attention": given.attention}
        graph = llama(sizes, context=given.context, tokens=None, **made)
        save_model(graph, model, save_as_external_data=True, location=FILE)
        del graph  # gigabytes
        wanted = reference(model, prompt, given.tokens)
        raise SystemExit(0 if _compare(given, model, wanted) else 1)


if __name__ == "__main__":
    main()
