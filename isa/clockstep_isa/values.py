"""Field values: which integers a field holds, and how each is written in a listing.

Both directions stand side by side, so that what is printed can be parsed. A new `Kind` needs a
case in `value_range`, `print_value` and `value_parser`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from clockstep_isa.diagnostics import UsageError
from clockstep_isa.geometry import EAST
from clockstep_isa.machine import Machine
from clockstep_isa.table import ENUMS, TYPES, Field, Kind, Type

__all__ = ["immediate", "print_immediate", "print_value", "value_parser", "value_range"]

_FLOAT_BITS = {Type.F16: ("<f2", "<u2"), Type.F32: ("<f4", "<u4")}


def value_range(field: Field) -> tuple[int, int]:
    """Smallest and greatest integer of a field, both included."""
    if field.kind is Kind.SIGNED:
        return -(1 << (field.bits - 1)), (1 << (field.bits - 1)) - 1
    if field.kind is Kind.TYPE:
        return 0, len(Type) - 1
    if field.kind in ENUMS:
        return 0, len(ENUMS[field.kind]) - 1
    return 0, (1 << field.bits) - 1


def immediate(kind: Type, value: float) -> int:
    """The bits of an immediate: those of `value` in type `kind`, zero-extended to 32.

    Floats are rounded to nearest, ties to even. Raises `UsageError` if an integer type cannot
    hold the value or a finite value overflows a float type.
    """
    if kind in _FLOAT_BITS:
        bits = _float_bits(kind, value)
        if math.isfinite(value) and bits == _float_bits(kind, math.copysign(math.inf, value)):
            raise UsageError("immediate-range", f"{value} is too large for {kind.text}")
        return bits
    width = 8 * kind.bytes
    if value % 1 != 0 or not -(1 << (width - 1)) <= value < 1 << (width - 1):
        raise UsageError("immediate-range", f"{value} is not an integer of {kind.text}")
    return int(value) & ((1 << width) - 1)


def _float_bits(kind: Type, value: float) -> int:
    float_type, bits_type = _FLOAT_BITS[kind]
    with np.errstate(over="ignore"):
        return int(np.array([value]).astype(float_type).view(bits_type)[0])


def print_immediate(kind: Type, bits: int) -> str:
    """`#` and the decimal value, or the raw bits in hexadecimal if a decimal would lose any."""
    if bits >> (8 * kind.bytes):
        return f"#0x{bits:08x}"
    if kind in _FLOAT_BITS:
        return f"#{_float_text(kind, bits) or f'0x{bits:08x}'}"
    width = 8 * kind.bytes
    return f"#{bits - (1 << width) if bits >> (width - 1) else bits}"


def _float_text(kind: Type, bits: int) -> str | None:
    """The exact decimal if it is short, else the shortest that has these bits; None if none has."""
    float_type, bits_type = _FLOAT_BITS[kind]
    value = float(np.array([bits], bits_type).view(float_type)[0])
    exact = repr(value)
    digits = (repr(float(f"{value:.{n}g}")) for n in range(1, 10))
    candidates = (exact, *digits) if len(exact) < 10 else digits
    same = (text for text in candidates if _float_bits(kind, float(text)) == bits)
    return next(same, None) if math.isfinite(value) else None


def print_value(field: Field, value: int, kind: int = 0) -> str:
    """The text of one field; `kind` is the value of the row's `type` field, if it has one."""
    if field.kind is Kind.STREAM:
        return f"{'E' if value >> 8 == EAST else 'W'}{value & 255}"
    if field.kind is Kind.SIGNED:
        return f"{value:+d}"
    if field.kind is Kind.TYPE:
        return Type(value).text
    if field.kind in ENUMS:
        return ENUMS[field.kind][value]
    if field.kind is Kind.IMMEDIATE:
        return print_immediate(Type(kind), value)
    return str(value)


def value_parser(field: Field, machine: Machine, kind: int = 0) -> Callable[[str], int]:
    """A function from the text of one field to its value.

    It raises `UsageError` with the offending text and what was expected. `kind` is as in
    `print_value`.
    """
    if field.kind is Kind.STREAM:
        return _stream_parser(machine)
    if field.kind is Kind.TYPE:
        return {text: int(t) for text, t in TYPES.items()}.__getitem__
    if field.kind in ENUMS:
        return ENUMS[field.kind].index
    if field.kind is Kind.IMMEDIATE:
        return lambda text: _parse_immediate(text, Type(kind))
    return _integer_parser(field)


def _stream_parser(machine: Machine) -> Callable[[str], int]:
    count = machine.streams.per_direction
    known = {f"{side}{i}": d << 8 | i for d, side in enumerate("EW") for i in range(count)}

    def parse(text: str) -> int:
        if text not in known:
            side = text[0]
            raise UsageError(
                "stream-range",
                f"stream {text[:40]} does not exist; this machine has {side}0 to {side}{count - 1}",
            )
        return known[text]

    return parse


def _integer_parser(field: Field) -> Callable[[str], int]:
    low, high = value_range(field)
    signs = "+-" if field.kind is Kind.SIGNED else ""

    def parse(text: str) -> int:
        digits = text.lstrip(signs) if signs else text
        value = int(text) if len(digits) < 20 and digits.isdecimal() else high + 1
        if not low <= value <= high:
            raise UsageError("field-range", f"{field.name} {text[:40]} is not in {low} to {high}")
        return value

    return parse


def _parse_immediate(text: str, kind: Type) -> int:
    digits = text.removeprefix("#")
    try:
        if digits.lower().startswith("0x"):
            bits = int(digits, 16)
            if bits >> 32:
                raise UsageError("immediate-range", f"{text[:40]} has more than 32 bits")
            return bits
        number = float(digits) if kind in _FLOAT_BITS else int(digits)
    except ValueError:
        wanted = "a number" if kind in _FLOAT_BITS else "an integer"
        raise UsageError(
            "immediate", f"{text[:40]} is not {wanted} such as #-3, nor bits such as #0x7fc00000"
        ) from None
    if math.isinf(number) and any(c.isdigit() for c in digits):
        raise UsageError("immediate-range", f"{text[:40]} is too large for {kind.text}")
    return immediate(kind, number)
