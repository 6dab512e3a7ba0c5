"""`run --provenance`: what an element of an output was made of, as data: every dispatch."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_isa import (
    Binding,
    Program,
    UsageError,
    geometry,
    instruction_texts,
    queue_name,
)
from clockstep_runtime.debug import Provenance, Step

__all__ = ["element", "runs", "served", "texts_of", "trail_as_data", "unit_of"]

_INDEX = re.compile(r"(.*)\[([0-9,\s]*)\]", re.DOTALL)


def element(program: Program, text: str) -> tuple[Binding, tuple[int, ...]]:
    """The output and the index that `OUTPUT[i,j]` names; raises `UsageError` if there is none."""
    found = _INDEX.fullmatch(text)
    name, numbers = (found[1], found[2]) if found else (text, "")
    output = next((b for b in program.outputs if b.name == name), None)
    if output is None:
        names = ", ".join(b.name for b in program.outputs)
        message = f"the program has no output {name!r}"
        raise UsageError("provenance-output", message, help=f"outputs: {names}")
    parts = [part.strip() for part in numbers.split(",")] if numbers.strip() else []
    shape = list(output.shape)
    if not all(part.isdigit() and len(part) < 19 for part in parts) or len(parts) != len(shape):
        example = f"{name}[{','.join('0' for _ in shape)}]"
        message = f"{text!r} is no element of {name}, whose shape is {shape}"
        raise UsageError("provenance-index", message, help=f"such as {example}")
    index = tuple(int(part) for part in parts)
    if any(i >= size for i, size in zip(index, shape, strict=True)):
        message = f"{list(index)} is outside the shape {shape} of {name}"
        raise UsageError("provenance-index", message)
    return output, index


# -- data -----------------------------------------------------------------------------------------


def trail_as_data(program: Program, text: str, value: Any, trail: Provenance) -> dict[str, Any]:
    """Everything, ready for JSON: steps from the output back, words, and elements of inputs."""
    ids = {step.at: i for i, step in enumerate(trail.steps)}
    words = {word.at: len(ids) + i for i, word in enumerate(trail.words)}
    texts = texts_of(program, trail)
    names = geometry(program.machine).queues

    def step_data(step: Step) -> dict[str, Any]:
        node, tile = served(program, step)
        sources = {k: [ids.get(at, words.get(at)) for at in v] for k, v in step.sources.items()}
        return {
            "id": ids[step.at],
            "cycle": step.cycle,
            "unit": unit_of(program, step),
            "instruction": texts[step.at.place],
            "dispatch": step.at.step,
            "lanes": runs(np.logical_or.reduce(step.lanes)),
            "value": _json_number(step.value),
            "node": node,
            "tile": tile,
            "sources": sources,
        }

    return {
        "output": text,
        "value": _json_number(value),
        "roots": [ids.get(at, words.get(at)) for at in trail.roots],
        "steps": [step_data(step) for step in trail.steps],
        "words": [
            {
                "id": words[word.at],
                "chip": word.chip,
                "unit": names[word.queue].name,
                "address": word.address,
                "lanes": runs(word.lanes),
                "input": word.input or None,
            }
            for word in trail.words
        ],
        "inputs": {
            name: {"elements": int(np.count_nonzero(mask)), "runs": _tensor_runs(mask)}
            for name, mask in trail.inputs.items()
        },
    }


def _json_number(value: Any) -> Any:
    plain = value is None or isinstance(value, int) or np.isfinite(value)
    return value if plain else str(value)


def runs(lanes: NDArray[np.bool_]) -> list[list[int]]:
    """The half-open runs of what is set."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], lanes.astype(np.int8), [0]])))
    found: list[list[int]] = edges.reshape(-1, 2).tolist()
    return found


def _tensor_runs(mask: NDArray[np.bool_]) -> list[list[int]]:
    """[i, j, ..., start, end] for every run along the last axis."""
    if not mask.ndim:
        return [[0, 1]] if mask else []
    rows = mask.reshape(-1, mask.shape[-1])
    found = []
    for row in np.flatnonzero(rows.any(axis=1)).tolist():
        prefix = [int(i) for i in np.unravel_index(row, mask.shape[:-1])]
        found += [[*prefix, *run] for run in runs(rows[row])]
    return found


# -- names ----------------------------------------------------------------------------------------


def texts_of(program: Program, trail: Provenance) -> dict[int, str]:
    """The instructions of all steps as a listing has them, by their place in the code."""
    index: NDArray[np.int64] = np.unique([step.at.place for step in trail.steps]).astype(np.int64)
    texts = instruction_texts(program.code.take(index))
    return dict(zip(index.tolist(), texts, strict=True))


def unit_of(program: Program, step: Step) -> str:
    """The queue of a step, such as `c0.vxm.3`."""
    return queue_name(program.machine, int(program.code.queue[step.at.place]))


def served(program: Program, step: Step) -> tuple[str | None, str | None]:
    """The node and the tile that a step serves, where the program says it."""
    index = int(program.code.note[step.at.place])
    if index < 0:
        return None, None
    note = program.notes[index]
    return program.nodes[note.node].name if note.node >= 0 else None, note.tile
