"""Why a model can be refused: every reason, its code and the way round.

A refusal, `UnsupportedModel` or a diagnostic in it, has one of these codes and no other. Before
adding one, see whether what is new is not an instance of one there is.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["REASONS", "Reason", "markdown"]


@dataclass(frozen=True, slots=True)
class Reason:
    """One row: the diagnostics' `code`, what it means, and what a user can do."""

    code: str
    meaning: str
    way_round: str


REASONS: tuple[Reason, ...] = (
    Reason(
        "control-flow",
        "A branch or the number of passes through a loop depends on data, and so does the shape of"
        " a result; or there are too many passes.",
        "Make the condition or the trip count constant, or results of equal shapes.",
    ),
    Reason(
        "dynamic-shape",
        "The shape of a result depends on data, as NonZero's does: no schedule can be static.",
        "Use an operator whose result has a fixed size, such as Where, or leave it to the host.",
    ),
    Reason(
        "element-type",
        "The element type cannot be stored, or not with this operator or at this --precision.",
        "Cast to a type that `clockstep ops` lists, or choose another --precision.",
    ),
    Reason(
        "integer-range",
        "64-bit arithmetic whose values are not known to fit the machine's 32 bits.",
        "Cast the operands to int32.",
    ),
    Reason(
        "model-form",
        "The file is written in a way that is not read: a version newer than the installed onnx or"
        " one that onnx cannot convert, external data outside the main graph, a tensor larger than"
        " any machine.",
        "Export the model again, with the opset and the form the message names.",
    ),
    Reason(
        "not-a-tensor",
        "An input, an output or an operand is a sequence, an optional, a map or sparse.",
        "Use dense tensors; sequences may come and go inside a model.",
    ),
    Reason(
        "operand-not-constant",
        "An operand that the schedule or its arithmetic follows from is computed at run time: a"
        " shape, axes, indices, a scale.",
        "Make it an initializer, or compute it from constants and shapes alone.",
    ),
    Reason(
        "random-values",
        "The result is random: RandomNormal and its like, Dropout in training mode.",
        "Export the model for inference, or make the random values an input.",
    ),
    Reason(
        "unbound-dimension",
        "An input has a dimension without a size.",
        "Give it with --dim or --shape.",
    ),
    Reason(
        "unknown-operator",
        "ONNX has no such operator at the opset that the model declares.",
        "Export the model at the opset that the message names.",
    ),
    Reason(
        "unsupported-form",
        "The operator is supported, but not with this attribute or this combination of shapes.",
        "The message says which.",
    ),
    Reason(
        "unsupported-operator",
        "The operator has no lowering and no ONNX function of operators that do.",
        "Replace it by operators that `clockstep ops` lists.",
    ),
)


def markdown() -> str:
    """The page of the docs."""
    lines = [
        "# Why a model is refused",
        "",
        "A model is refused before anything runs, with exit status 3: every node concerned, in one",
        "run, each with a reason and, where there is one, a way round. These are all the reasons.",
        "",
        "| reason | meaning | way round |",
        "|---|---|---|",
        *(f"| `{row.code}` | {row.meaning} | {row.way_round} |" for row in REASONS),
    ]
    return "\n".join(lines) + "\n"
