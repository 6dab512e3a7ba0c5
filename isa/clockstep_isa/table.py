"""The instruction table: one row an instruction, and every other list is derived from it.

To add an instruction, add a row here and its meaning in `clockstep_runtime.semantics`; codec,
listing, grammar, manual and verifier follow. A row's `syntax` is its text form with `{field}`
holes. All timing is named by the machine's figures: an instruction dispatched in cycle `t`
samples its operands at `t + skew` and delivers its result at `t + latency`; dispatches of one
queue are at least `busy` cycles apart. `repeat` and `interval` are in every word: the instruction
is dispatched `repeat` times, `interval` cycles apart, and its queue is held for the whole span.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from clockstep_isa.geometry import Unit
from clockstep_isa.machine import Machine

__all__ = [
    "BY_NAME",
    "BY_OPCODE",
    "HEADER_BITS",
    "INTERVAL_BITS",
    "OPCODE_BITS",
    "REPEAT_BITS",
    "TABLE",
    "TYPES",
    "WORD_BITS",
    "Field",
    "Instruction",
    "Kind",
    "Type",
    "busy",
    "figure",
]

WORD_BITS = 128
OPCODE_BITS, REPEAT_BITS, INTERVAL_BITS = 8, 16, 12
HEADER_BITS = OPCODE_BITS + REPEAT_BITS + INTERVAL_BITS


class Type(enum.IntEnum):
    """Element types of a stream group. The value is the code in the word."""

    I8 = 0
    I16 = 1
    I32 = 2
    F16 = 3
    F32 = 4

    @property
    def bytes(self) -> int:
        """Streams that one vector of this type takes: adjacent, aligned to their number."""
        return (1, 2, 4, 2, 4)[self.value]

    @property
    def text(self) -> str:
        return self.name.lower()


TYPES = {t.text: t for t in Type}


class Kind(enum.Enum):
    """What a field holds, which decides its text form."""

    INT = "int"  #           an unsigned integer
    SIGNED = "signed"  #     two's complement, printed with its sign; a stride of 0 is left out
    STREAM = "stream"  #     direction << 8 | stream: E4, W17
    TYPE = "type"  #         a `Type`: i8, f32
    IMMEDIATE = "imm"  #     32 bits, the low ones read as the row's `type`: #1.5, #0x7fc00000
    ROUND = "round"  #       rne (to nearest, ties to even) or rtz (toward zero)
    OVERFLOW = "overflow"  # sat (clamp to the range) or wrap (keep the low bits)


ENUMS = {Kind.ROUND: ("rne", "rtz"), Kind.OVERFLOW: ("sat", "wrap")}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a row.

    `role` is "in" or "out" for a stream operand. Its width in streams is `width` if that is a
    number, the bytes of the type in field `width` if that names a TYPE field, or the value of
    the INT field that `width` names.
    """

    name: str
    kind: Kind
    bits: int
    role: str = ""
    width: int | str = 0


@dataclass(frozen=True, slots=True)
class Instruction:
    """One row. `skew`, `latency` and `busy` name a machine figure ("mem.read_latency") or a number.

    `large` rows run only on the VXM's large ALUs; the `type` of a row is one of `types`.
    """

    name: str
    opcode: int
    unit: Unit | None
    syntax: str
    fields: tuple[Field, ...]
    skew: int | str
    latency: int | str
    busy: int | str
    doc: str
    large: bool = False
    types: tuple[Type, ...] = tuple(Type)

    def field(self, name: str) -> int:
        """Index of a field in `fields`, which is its column in `Program.args`."""
        return next(i for i, f in enumerate(self.fields) if f.name == name)


def figure(machine: Machine, name: int | str) -> int:
    """A number, or the sum of the machine's figures that `name` joins with "+"."""
    if isinstance(name, int):
        return name
    return sum(machine.figures[key].value for key in name.split("+"))


def busy(row: Instruction, machine: Machine, args: tuple[int, ...]) -> int:
    """Cycles that one dispatch holds its queue: `row.busy`, or 1 for an int8 activation."""
    if row.name == "abc" and args[row.field("type")] == Type.I8:
        return 1
    return figure(machine, row.busy)


def _in(name: str, width: int | str) -> Field:
    return Field(name, Kind.STREAM, 9, "in", width)


def _out(width: int | str) -> Field:
    return Field("out", Kind.STREAM, 9, "out", width)


def _int(name: str, bits: int) -> Field:
    return Field(name, Kind.INT, bits)


_TYPE = Field("type", Kind.TYPE, 3)
_ADDRESS = _int("address", 20)
_STRIDE = Field("stride", Kind.SIGNED, 20)
_LANE = 13
_OP = "vxm.op_latency"


_WEIGHTS = (Type.I8, Type.F16)
_SUMS = (Type.I32, Type.F32)


def _unary(
    name: str,
    opcode: int,
    doc: str,
    large: bool = False,
    types: tuple[Type, ...] = tuple(Type),
) -> Instruction:
    fields = (_TYPE, _in("a", "type"), _out("type"))
    syntax = f"{name}.{{type}} {{a}} -> {{out}}"
    return Instruction(name, opcode, Unit.VXM, syntax, fields, 0, _OP, 1, doc, large, types)


def _binary(name: str, opcode: int, doc: str, large: bool = False) -> tuple[Instruction, ...]:
    """A stream form, and `name + "i"` whose second operand is an immediate."""
    immediate = Field("imm", Kind.IMMEDIATE, 32)
    streams = (_TYPE, _in("a", "type"), _in("b", "type"), _out("type"))
    constant = (_TYPE, _in("a", "type"), immediate, _out("type"))
    s1, s2 = (
        f"{n}.{{type}} {{a}}, {{{b}}} -> {{out}}" for n, b in ((name, "b"), (name + "i", "imm"))
    )
    return (
        Instruction(name, opcode, Unit.VXM, s1, streams, 0, _OP, 1, doc, large),
        Instruction(
            name + "i",
            opcode + 1,
            Unit.VXM,
            s2,
            constant,
            0,
            _OP,
            1,
            doc + " b is immediate.",
            large,
        ),
    )


_CAST = Instruction(
    "cast",
    0x4F,
    Unit.VXM,
    "cast.{type}.{to}.{round}.{overflow} {a} -> {out}",
    (
        _TYPE,
        Field("to", Kind.TYPE, 3),
        Field("round", Kind.ROUND, 1),
        Field("overflow", Kind.OVERFLOW, 1),
        _in("a", "type"),
        _out("to"),
    ),
    0,
    _OP,
    1,
    "Convert. To an integer: round as said, then clamp or keep the low bits; NaN gives 0.",
    large=True,
)

# fmt: off
TABLE: tuple[Instruction, ...] = (
    Instruction("nop", 0x00, None, "nop {cycles}", (_int("cycles", 16),), 0, 0, 1,
                "Let that many cycles pass. Only the codec writes it: listings have absolute cycles."),

    Instruction("read", 0x10, Unit.MEM, "read {address}{stride} -> {out}", (_ADDRESS, _STRIDE, _out(1)),
                0, "mem.read_latency", 1, "Put the word at `address` on a stream; repeats add `stride`."),
    Instruction("write", 0x11, Unit.MEM, "write {a} -> {address}{stride}", (_in("a", 1), _ADDRESS, _STRIDE),
                0, "mem.write_latency", 1, "Store a stream's vector at `address`; repeats add `stride`."),

    Instruction("scatter", 0x12, Unit.MEM, "scatter {a} at {map} - {first} -> {address} x {words}",
                (_in("a", 1), _in("map", 2), _int("first", 16), _ADDRESS, _int("words", 20)), 0, "mem.write_latency", 1,
                "Store a stream's vector at `address` + n if n < `words`, else nowhere; n is lane 0 of `map` - `first`, "
                "in 16 bits without sign. All `words` must be there, and all are written. It is dispatched once."),

    Instruction("gather", 0x13, Unit.MEM, "gather {map} - {first} of {address}{stride} x {words} -> {out}",
                (_in("map", 2), _int("first", 16), _ADDRESS, _STRIDE, _int("words", 18), _out(1)), 0, "mem.read_latency", 1,
                "Put the word at `address` + n on a stream if n < `words`, else zeros; n is lane 0 of `map` - `first`, in 16 "
                "bits without sign; repeats add `stride`. All that it may reach must be there when it begins."),

    Instruction("lw", 0x20, Unit.LW, "lw.{type} {a} x {count} -> column {column}{stride}",
                (_TYPE, _in("a", "count"), _int("count", 9), _int("column", _LANE), _STRIDE), 0, 1, 1,
                "Load `count` streams into the plane's weight buffer: one column each (i8) or one a "
                "pair (f16), from `column` on; repeats add `stride` to `column`.", types=_WEIGHTS),
    Instruction("iw", 0x21, Unit.LW, "iw.{type}", (_TYPE,), 0, "mxm.install_latency", "mxm.install_latency",
                "Install the weight buffer in the array and clear it; columns not loaded are zero. f16 "
                "takes the following planes of its pair as well and ends what they held.", types=_WEIGHTS),
    Instruction("abc", 0x22, Unit.ABC, "abc.{type} {a} rows {rows}", (_TYPE, _in("a", "type"), _int("rows", _LANE)),
                "mxm.activation_skew", "mxm.activation_skew+mxm.multiply_latency", "mxm.fp16_interval",
                "Multiply lanes 0 to `rows` - 1 of a vector by the installed weights: lane r meets row r "
                "of every column; i8 gives exact i32, f16 the exact sum rounded once to f32.", types=_WEIGHTS),
    Instruction("acc", 0x23, Unit.ACC, "acc.{type} -> {out}", (_TYPE, _out("type")), 0, "mxm.accumulate_latency", 1,
                "Emit the product that the array delivers in this cycle, i32 or f32.", types=_SUMS),

    *_binary("add", 0x30, "a + b; integers keep the low bits."),
    *_binary("sub", 0x32, "a - b; integers keep the low bits."),
    *_binary("mul", 0x34, "a * b; integers keep the low bits."),
    *_binary("add_sat", 0x36, "a + b, integers clamped to their range."),
    *_binary("sub_sat", 0x38, "a - b, integers clamped to their range."),
    *_binary("mul_sat", 0x3A, "a * b, integers clamped to their range."),
    *_binary("max", 0x3C, "The greater; NaN if either is NaN; +0 over -0.", large=True),
    *_binary("min", 0x3E, "The lesser; NaN if either is NaN; -0 over +0.", large=True),
    *_binary("and", 0x40, "Bitwise and."),
    *_binary("or", 0x42, "Bitwise or."),
    *_binary("xor", 0x44, "Bitwise exclusive or."),
    *_binary("eq", 0x46, "Integer 1 if a = b, else 0, in the same width."),
    *_binary("lt", 0x48, "Integer 1 if a < b, else 0, in the same width."),
    *_binary("le", 0x4A, "Integer 1 if a <= b, else 0, in the same width."),
    _unary("mov", 0x4C, "a, unchanged bit for bit."),
    _unary("neg", 0x4D, "-a; integers keep the low bits; floats flip the sign bit."),
    _unary("abs", 0x4E, "|a|; integers keep the low bits; floats clear the sign bit."),
    _CAST,
    _unary("exp2", 0x50, "2**a, f32 only.", large=True, types=(Type.F32,)),
    _unary("tanh", 0x51, "Hyperbolic tangent, f32 only.", large=True, types=(Type.F32,)),
    _unary("rsqrt", 0x52, "1 / sqrt(a), f32 only.", large=True, types=(Type.F32,)),

    Instruction("shift", 0x60, Unit.PERMUTE, "shift {a} x {width} by {amount} keep {low}:{high} -> {out}",
                (_in("a", "width"), _int("width", 3), Field("amount", Kind.SIGNED, 14), _int("low", _LANE),
                 _int("high", _LANE), _out("width")), 0, "sxm.permute_latency", 1,
                "Lane i of the result is lane i - `amount` of the operand where low <= i < high, else 0."),
    Instruction("broadcast", 0x61, Unit.PERMUTE, "broadcast {a} x {width} lane {lane} -> {out}",
                (_in("a", "width"), _int("width", 3), _int("lane", _LANE), _out("width")), 0,
                "sxm.permute_latency", 1, "Every lane of the result is one lane of the operand."),
    Instruction("permute", 0x62, Unit.PERMUTE, "permute {a} x {width} map {map} -> {out}",
                (_in("a", "width"), _int("width", 3), _in("map", 2), _out("width")), 0,
                "sxm.permute_latency", 1,
                "Lane i of the result is lane map[i] (unsigned 16 bits) of the operand, 0 beyond the lanes."),
    Instruction("transpose", 0x63, Unit.TRANSPOSE, "transpose {a} x {width} -> {out}",
                (_in("a", "width"), _int("width", 9), _out("width")), 0, "sxm.transpose_latency", 1,
                "In every superlane exchange stream and lane: stream j, lane i gets stream i, lane j. "
                "`width` must be the lanes of a superlane."),
    Instruction("distribute", 0x64, Unit.DISTRIBUTE, "distribute {a} map {map} -> {out}",
                (_in("a", 1), _in("map", 1), _out(1)), 0, "sxm.distribute_latency", 1,
                "In every superlane lane i gets lane map[i] (unsigned byte), 0 beyond the superlane."),

    Instruction("send", 0x70, Unit.SEND, "send {a}", (_in("a", 1),), 0, "c2c.latency+c2c.margin", "c2c.cycles_per_vector",
                "Put a vector on the link; it arrives at the peer after the latency."),
    Instruction("receive", 0x71, Unit.RECEIVE, "receive -> {out}", (_out(1),), 0, 1, 1,
                "Take the vector that arrives on the link in this cycle and put it on a stream."),
)
# fmt: on

BY_NAME = {row.name: row for row in TABLE}
BY_OPCODE = {row.opcode: row for row in TABLE}
