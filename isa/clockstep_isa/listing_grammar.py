"""The grammar of an instruction's text, written from the rows of the table.

The only file that knows lark. A new row of the table is parsed with no change here; a new
`Kind` needs its terminal in `_TERMINALS`.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cache

import lark

from clockstep_isa.diagnostics import UsageError, shown
from clockstep_isa.table import BY_NAME, ENUMS, TABLE, TYPES, Instruction, Kind

__all__ = ["PARSED_ROWS", "Operand", "grammar", "parse_instruction", "template"]

PARSED_ROWS = tuple(row for row in TABLE if row.unit is not None)
"""Every row but `nop`: in a listing the cycles are absolute, so nobody waits."""

_TERMINALS = {
    Kind.INT: ("INT", r"[0-9]+", "an integer"),
    Kind.SIGNED: ("SIGNED", r"[+-][0-9]+", "a signed integer such as +1"),
    Kind.STREAM: ("STREAM", r"[EW][0-9]+(?!\w)", "a stream such as E4 or W17"),
    Kind.TYPE: ("TYPE", "|".join(sorted(TYPES)), "a type: " + ", ".join(TYPES)),
    Kind.IMMEDIATE: ("IMMEDIATE", r"#[^\s,]+", "an immediate such as #1.5"),
    Kind.ROUND: ("ROUND", "|".join(ENUMS[Kind.ROUND]), " or ".join(ENUMS[Kind.ROUND])),
    Kind.OVERFLOW: ("OVERFLOW", "|".join(ENUMS[Kind.OVERFLOW]), " or ".join(ENUMS[Kind.OVERFLOW])),
}
_EXPECTED = {name: text for name, _, text in _TERMINALS.values()}
_PIECE = re.compile(r"\{(\w+)\}|([A-Za-z_]\w*|->|[^\s{}])")


@dataclass(frozen=True, slots=True)
class Operand:
    """The text of one field in an instruction: index of the field, text, and where it starts."""

    field: int
    text: str
    start: int


@cache
def template(row: Instruction) -> tuple[str | int, ...]:
    """A row's `syntax` in pieces: a word or mark as it stands, or the index of a field."""
    pieces = _PIECE.findall(row.syntax)
    return tuple(row.field(name) if name else word for name, word in pieces)


def is_optional(row: Instruction, piece: int) -> bool:
    """Whether piece `piece` of the template may be left out: a stride that is written close up."""
    this, before = template(row)[piece], template(row)[piece - 1]
    both = isinstance(this, int) and isinstance(before, int)
    return both and row.fields[int(this)].kind is Kind.SIGNED


@cache
def grammar() -> str:
    """The lark grammar: one rule a row, named by its opcode."""
    words: dict[str, str] = {}
    rules = []
    for row in PARSED_ROWS:
        parts = [_symbol(row, i, words) for i in range(len(template(row)))]
        rules.append(f"row_{row.opcode}: {' '.join(parts)}")
    lines = ["start: " + " | ".join(rule.partition(":")[0] for rule in rules), *rules]
    lines += [f"{name}: /{pattern}/" for name, pattern, _ in _TERMINALS.values()]
    for word, name in words.items():
        end = r"(?!\w)" if word[-1].isalnum() else ""
        lines.append(f"{name}: /{re.escape(word)}{end}/")
    lines.append(r"%ignore /[ \t]+/")
    return "\n".join(lines)


def _symbol(row: Instruction, piece: int, words: dict[str, str]) -> str:
    part = template(row)[piece]
    if isinstance(part, str):
        return words.setdefault(part, f"_WORD{len(words)}")
    kind = row.fields[part].kind
    name = _TERMINALS[kind][0]
    if is_optional(row, piece):
        return f"[{name}]"
    return f"(INT | {name})" if kind is Kind.SIGNED else name


@cache
def _parser() -> tuple[lark.Lark, dict[str, str]]:
    parser = lark.Lark(grammar(), parser="lalr", maybe_placeholders=True)
    terms = dict(_EXPECTED)
    for terminal in parser.terminals:
        if terminal.name.startswith("_WORD"):
            word = re.sub(r"\\(.)", r"\1", terminal.pattern.value.removesuffix(r"(?!\w)"))
            terms[terminal.name] = repr(word)
    return parser, terms


def parse_instruction(text: str) -> tuple[Instruction, tuple[Operand, ...]]:
    """The row and the operands of an instruction as it stands in a listing.

    Operands come in the order of the text; one that was left out (a stride of 0) is missing.
    Raises `UsageError` with the offending token and what was expected.
    """
    _check_name(text)
    parser, terms = _parser()
    try:
        tree = parser.parse(text)
    except lark.UnexpectedInput as error:
        raise _refuse(text, error, terms) from None
    (found,) = tree.children
    assert isinstance(found, lark.Tree)
    opcode = int(str(found.data).removeprefix("row_"))
    row = next(r for r in PARSED_ROWS if r.opcode == opcode)
    fields = [part for part in template(row) if isinstance(part, int)]
    pairs = zip(fields, found.children, strict=True)
    return row, tuple(
        Operand(field, str(token), token.start_pos or 0)
        for field, token in pairs
        if isinstance(token, lark.Token)
    )


def _check_name(text: str) -> None:
    match = re.match(r"[^\s.]+", text)
    name = match.group() if match else ""
    names = [row.name for row in PARSED_ROWS]
    if name not in names:
        if name in BY_NAME:
            raise UsageError("listing-syntax", f"{name} has no place in a listing; write cycles")
        close = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {close[0]!r}?" if close else "see the instruction set manual"
        raise UsageError("listing-syntax", f"no instruction {shown(name)}", help=hint)


def _refuse(text: str, error: lark.UnexpectedInput, terms: dict[str, str]) -> UsageError:
    if isinstance(error, lark.UnexpectedToken):
        terminals, place = error.expected, error.token.start_pos
        at_end = error.token.type == "$END"
    else:
        terminals = getattr(error, "allowed", None) or set()
        place, at_end = error.pos_in_stream, False
    rest = re.match(r"\w+|\S", text[place or 0 :])
    token = "the end" if at_end or rest is None else shown(rest.group())
    wanted = sorted(terms.get(name, "the end") for name in terminals)
    return UsageError("listing-syntax", f"found {token}, expected {' or '.join(wanted)}")
