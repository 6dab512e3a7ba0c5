"""Flags that several verbs share, and the text forms of their values."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from clockstep.arrays import read_npy
from clockstep_isa import UsageError

__all__ = [
    "Bind",
    "Chips",
    "Dim",
    "Effort",
    "Element",
    "Entries",
    "Entry",
    "Json",
    "MachineName",
    "Model",
    "NoWeights",
    "Objective",
    "Precision",
    "ProgramFile",
    "SetFigure",
    "Shape",
    "State",
    "Until",
    "Watch",
    "parse_bindings",
    "parse_cycles",
    "parse_dims",
    "parse_entries",
    "parse_pairs",
    "parse_shapes",
    "parse_states",
]

Model = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The ONNX model.")]
ProgramFile = Annotated[Path, typer.Argument(metavar="PROGRAM", help="A compiled program.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
MachineName = Annotated[
    str, typer.Option("--machine", metavar="NAME|FILE.toml", help="A preset or a machine file.")
]
SetFigure = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a figure of the machine."),
]
Chips = Annotated[
    str, typer.Option("--chips", metavar="auto|N", help="auto: the fewest that hold the model.")
]
Dim = Annotated[
    list[str] | None, typer.Option("--dim", metavar="NAME=N", help="Bind a symbolic dimension.")
]
Shape = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="INPUT=d0,d1,...", help="Bind the shape of an input."),
]
Bind = Annotated[
    list[str] | None,
    typer.Option(
        "--bind", metavar="INPUT=VALUE", help="Make an input constant: numbers, or a FILE.npy."
    ),
]
Entries = Annotated[
    list[str] | None,
    typer.Option(
        "--entry",
        metavar="NAME:DIM=N,...",
        help="An entry of the program, such as prefill or decode: all find the same weights and "
        "states in SRAM.",
    ),
]
Entry = Annotated[
    str | None,
    typer.Option("--entry", metavar="NAME", help="An entry of the program, if not the first."),
]
State = Annotated[
    list[str] | None,
    typer.Option(
        "--state",
        metavar="INPUT=OUTPUT",
        help="What the next run finds in the place of an input; none: not even past and present.",
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="auto|int8|fp16|exact",
        help="auto: quantized parts in int8, the rest in fp16.",
    ),
]
Effort = Annotated[
    str, typer.Option("--effort", metavar="fast|standard|high", help="How hard to search.")
]
Objective = Annotated[
    str,
    typer.Option(
        "--objective",
        metavar="latency|throughput",
        help="With --chips N: chips share operators, or each has its part or copy of the model.",
    ),
]
Copies = Annotated[
    str,
    typer.Option(
        "--copies",
        metavar="auto|N",
        help="With --objective throughput: copies that take runs in turn; auto: the most there "
        "is room for.",
    ),
]
NoWeights = Annotated[
    bool, typer.Option("--no-weights", help="Leave the weights out; timing does not need them.")
]
Watch = Annotated[
    list[str] | None,
    typer.Option(
        "--watch",
        metavar="UNIT|STREAM|ADDRESS",
        help="Print what happened there: vxm.3, mxm.W0, c1.mem.W3, E4, E4@mem.W3, mem.W3:17.",
    ),
]
Until = Annotated[
    int | None,
    typer.Option("--until", metavar="CYCLE", help="With --watch: stop after this cycle."),
]
Element = Annotated[
    str | None,
    typer.Option(
        "--provenance",
        metavar="OUTPUT[i,j]",
        help="Walk back from an element to the inputs and weights that made it.",
    ),
]


def parse_pairs(flag: str, texts: Iterable[str] | None) -> dict[str, str]:
    """NAME=VALUE texts as a dictionary; the name ends at the last "=". Raises `UsageError`."""
    pairs: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.rpartition("=")
        if not equals or not name:
            raise UsageError("option-pair", f"{flag} {text!r} is not NAME=VALUE")
        if name in pairs:
            raise UsageError("option-twice", f"{flag} gives {name!r} twice")
        pairs[name] = value
    return pairs


def parse_dims(texts: Iterable[str] | None) -> dict[str, int]:
    """`--dim NAME=N` texts by name; raises `UsageError`."""
    return {
        name: _size("--dim", name, value) for name, value in parse_pairs("--dim", texts).items()
    }


def parse_entries(texts: Iterable[str] | None) -> dict[str, dict[str, int]] | None:
    """`--entry NAME:DIM=N,...` texts by name; None if there are none. Raises `UsageError`."""
    found: dict[str, dict[str, int]] = {}
    for text in texts or ():
        name, _, dims = text.partition(":")
        if not name:
            raise UsageError("option-pair", f"--entry {text!r} is not NAME:DIM=N,...")
        if name in found:
            raise UsageError("option-twice", f"--entry gives {name!r} twice")
        found[name] = parse_dims(part for part in dims.split(",") if part)
    return found or None


def parse_shapes(texts: Iterable[str] | None) -> dict[str, tuple[int, ...]]:
    """`--shape INPUT=d0,d1,...` texts by input; nothing after "=" is a scalar."""
    return {
        name: tuple(_size("--shape", name, part) for part in value.split(",") if value)
        for name, value in parse_pairs("--shape", texts).items()
    }


def parse_bindings(texts: Iterable[str] | None) -> dict[str, NDArray[Any]]:
    """`--bind INPUT=VALUE` texts by input: a number, numbers with commas, or the name of a file."""
    return {name: _value(name, text) for name, text in parse_pairs("--bind", texts).items()}


def parse_states(texts: Iterable[str] | None) -> dict[str, str] | None:
    """`--state INPUT=OUTPUT` texts by input; None if there are none, empty for the text `none`."""
    given = list(texts or ())
    if not given:
        return None
    return {} if given == ["none"] else parse_pairs("--state", given)


def _value(name: str, text: str) -> NDArray[Any]:
    if text.endswith(".npy"):
        return read_npy(Path(text))
    numbers = [_number(name, part.strip()) for part in text.split(",")]
    return np.asarray(numbers if "," in text else numbers[0])


def _number(name: str, text: str) -> float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise UsageError("option-number", f"--bind {name}: {text!r} is no number and no FILE.npy")


def parse_cycles(text: str | None) -> tuple[int | None, int | None] | None:
    """`A:B` as the half-open interval [A, B); either end may be left out."""
    if text is None:
        return None
    first, colon, last = text.partition(":")
    if not colon:
        raise UsageError("option-cycles", f"--cycles {text!r} is not A:B")
    start = _size("--cycles", "A", first) if first else None
    end = _size("--cycles", "B", last) if last else None
    return start, end


def _size(flag: str, name: str, text: str) -> int:
    text = text.strip()
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise UsageError("option-number", f"{flag} {name}: {text!r} is not a whole number")
    return int(text)
