"""The machine, its instruction set and its programs; nothing about models."""

from __future__ import annotations

from clockstep_isa.codec import decode, encode, instruction_bytes
from clockstep_isa.container import load_program, program_bytes, program_sha256, save_program
from clockstep_isa.diagnostics import (
    ClockstepError,
    Diagnostic,
    DoesNotFit,
    Fault,
    MalformedFile,
    ScheduleViolation,
    UnsupportedModel,
    UsageError,
    Violation,
)
from clockstep_isa.geometry import EAST, WEST, Geometry, Queue, Unit, geometry, phase, wires, wiring
from clockstep_isa.layout import PIECE, Binding, Layout, numpy_type, tensor_dtype
from clockstep_isa.listing import (
    instruction_texts,
    listing_lines,
    note_texts,
    parse_listing,
    print_listing,
    read_listing,
    units_named,
)
from clockstep_isa.machine import PROVENANCE, Figure, Machine, Schema, schema
from clockstep_isa.machine_file import (
    load_machine,
    machine_from_dict,
    machine_to_dict,
    preset_names,
)
from clockstep_isa.parts import PLACE, Part, image_of, parts_of, repeated
from clockstep_isa.program import (
    ARGS,
    Code,
    Image,
    Node,
    Note,
    Probe,
    Program,
    canonical_notes,
    end_cycle,
    queue_name,
)
from clockstep_isa.table import (
    BY_NAME,
    BY_OPCODE,
    TABLE,
    TYPES,
    Field,
    Instruction,
    Kind,
    Type,
    busy,
    figure,
)
from clockstep_isa.values import immediate, value_range
from clockstep_isa.words import Words

# Grouped by the file each name comes from.
__all__ = [  # noqa: RUF022
    # machine, machine_file, geometry
    "PROVENANCE", "Figure", "Machine", "Schema", "schema",
    "load_machine", "machine_from_dict", "machine_to_dict", "preset_names",
    "EAST", "WEST", "Geometry", "Queue", "Unit", "geometry", "phase", "wires", "wiring",
    # table, values
    "BY_NAME", "BY_OPCODE", "TABLE", "TYPES", "Field", "Instruction", "Kind", "Type",
    "busy", "figure", "immediate", "value_range",
    # program, layout
    "ARGS", "Code", "Image", "Node", "Note", "Probe", "Program", "canonical_notes",
    "end_cycle", "queue_name", "PLACE", "Part", "image_of", "parts_of", "repeated",
    "PIECE", "Binding", "Layout", "numpy_type", "tensor_dtype",
    # codec, words, container, listing
    "Words", "decode", "encode", "instruction_bytes",
    "load_program", "program_bytes", "program_sha256", "save_program",
    "instruction_texts", "listing_lines", "note_texts", "parse_listing", "print_listing",
    "read_listing", "units_named",
    # diagnostics
    "ClockstepError", "Diagnostic", "DoesNotFit", "Fault", "MalformedFile",
    "ScheduleViolation", "UnsupportedModel", "UsageError", "Violation",
]  # fmt: skip
