"""Listings: the text form of a program, which a person can read and `clockstep asm` accepts.

One line an instruction: absolute dispatch cycle, queue, instruction, `*repeat/interval` unless
it is 1, and after a semicolon the node and the tensor tile it serves. `#` begins a comment line.

    .machine tiny
    .set mem.words_per_bank=64
    .chips 2
    .word c0.mem.W3 64 = 01 02 0a ff
      120  c0.mem.W3  read 64+1 -> E4  *70    ; fc1 | x[0:70]
      124  c0.vxm.0   addi.f32 E4, #-0.5 -> W8

Directives, one a line: `.clockstep 1` (version of this form), `.machine NAME` or `.machine {json}`,
`.set KEY=VALUE`, `.chips N`, `.copies N` (systems of so many chips that take runs in turn; one if
absent), `.cycles N` (the promise; computed if absent), `.info {json}`,
`.node {json}`, `.input {json}`, `.output {json}`, `.probe {json}` (a tensor in between, after its
nodes), `.no-weights` (compiled without), `.word QUEUE ADDRESS = hexadecimal bytes, zero-padded`,
`.image QUEUE ADDRESS WORDS [base64]` and `.data base64` lines that continue it.
"""

from __future__ import annotations

from clockstep_isa.listing_parse import parse_listing, read_listing
from clockstep_isa.listing_print import (
    instruction_texts,
    listing_lines,
    note_texts,
    print_listing,
    units_named,
)

__all__ = [
    "instruction_texts",
    "listing_lines",
    "note_texts",
    "parse_listing",
    "print_listing",
    "read_listing",
    "units_named",
]
