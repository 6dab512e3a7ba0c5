"""Several entries of one program: a model with several bindings of its dimensions, such as prefill
and decode of a language model, which find the same weights and states in the same words.

The entry that most needs weights where it wants them is scheduled first; the others find what is
there (`placed.py`), on as many chips, which share operators so that constants and states are split
alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from clockstep_compiler.arranged import arranged
from clockstep_compiler.attempts import attempt
from clockstep_compiler.facts import instruction_bytes_of
from clockstep_compiler.frontend import Model, survey
from clockstep_compiler.graph import Graph
from clockstep_compiler.heads import heads_together
from clockstep_compiler.lowering import lower
from clockstep_compiler.options import Options
from clockstep_compiler.partition import dealt_by
from clockstep_compiler.pipeline import Candidate, check_options, emitted, fitted, stage_ways, ways
from clockstep_compiler.pipelined import pipelined
from clockstep_compiler.placed import Held, Key, Placed, contents, form_of
from clockstep_compiler.problems import lowered_survey
from clockstep_compiler.shard import held_by, shard, share
from clockstep_compiler.steps import Lowered, Put
from clockstep_compiler.storage import NoRoom, Storage
from clockstep_isa.diagnostics import DoesNotFit, UsageError
from clockstep_isa.machine import Machine
from clockstep_isa.program import Program

__all__ = ["compile_entries"]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry before it is scheduled: as ranks would share it, and as one chip has it."""

    options: Options
    laid: Graph
    graph: Graph
    lowered: Lowered


def compile_entries(
    model: Model,
    machine: Machine,
    options: Options,
    entries: Mapping[str, Mapping[str, int]],
) -> Program:
    """Compile a model once for each of several bindings of its dimensions, into one program.

    `entries` has dimensions by name of entry, beside those of `options`; the first is the one that
    the program runs unless another is asked for. Raises as `compile_model`.
    """
    check_options(machine, options)
    _check_entries(options, entries)
    ones = [replace(options, dims={**options.dims, **d}, copies=1) for d in entries.values()]
    surveys = [survey(model, one) for one in ones]
    programs = None
    if not any(found.problems for found in surveys):
        graphs = [found.graph for found in surveys]
        programs = pipelined(graphs, machine, ones, partial(_stages, machine))
    if programs is None:
        made = [_Entry(one, *lowered_survey(surveys.pop(0), one, machine)) for one in ones]
        programs = _scheduled(made, machine, options.chips)
    named = [replace(p, name=name) for p, name in zip(programs, entries, strict=True)]
    return replace(named[0], others=tuple(named[1:]))


def _stages(machine: Machine, graphs: Sequence[Graph], ones: Sequence[Options]) -> list[Program]:
    """The programs of one stage of all entries, on the same chips of a node.

    Raises `NoRoom` or `DoesNotFit` if they have no room there.
    """
    made = []
    for graph, one in zip(graphs, ones, strict=True):
        laid = replace(arranged(graph, machine), states=graph.states)
        whole = heads_together(laid, machine)
        made.append(_Entry(one, laid, whole, lower(whole, one, machine)))
    first = min(range(len(made)), key=lambda number: _needs(made[number]))
    found = stage_ways(graphs[first], machine, ones[first], Placed())
    return _together(made, first, found, machine)


def _check_entries(options: Options, entries: Mapping[str, Mapping[str, int]]) -> None:
    if not entries or not all(name and name.isprintable() for name in entries):
        raise UsageError("entry", "an entry has no name", help="--entry prefill:tokens=128")
    if options.copies not in (None, 1):
        raise UsageError("entry", f"--copies {options.copies}: entries are of one copy")


def _scheduled(entries: Sequence[_Entry], machine: Machine, chips: int | None) -> list[Program]:
    """All entries, on as few chips as will do."""
    first = min(range(len(entries)), key=lambda number: _needs(entries[number]))
    one, count = entries[first], chips
    while True:
        options = replace(one.options, chips=count)
        found = ways(one.laid, one.graph, one.lowered, machine, options, placed=Placed())
        try:
            return _together(entries, first, found, machine)
        except NoRoom as error:
            failure = error.bare()
        count = found[0].done.scheduler.chips + 1
        if chips is not None or count > machine.direct_chips:
            raise _refused(machine, count - 1, failure)


def _together(
    entries: Sequence[_Entry], first: int, found: Iterable[Candidate], machine: Machine
) -> list[Program]:
    """All entries, where one of the ways to compile the `first` leaves the others what they want.

    Raises `NoRoom` if none does.
    """
    failure: NoRoom | None = None
    for way in found:
        try:
            done = _followed(entries, first, way, machine)
        except NoRoom as error:
            failure = error.bare()
            continue
        programs = [emitted(one, e.options) for e, one in zip(entries, done, strict=True)]
        image = max((program.image for program in programs), key=lambda image: image.words)
        return [replace(program, image=image) for program in programs]
    assert failure is not None
    raise failure


def _refused(machine: Machine, chips: int, failure: NoRoom) -> DoesNotFit:
    message = f"{chips} chip{'s' * (chips > 1)} do not hold all entries; "
    message += f"chip {failure.chip} lacks {failure.words:,} words for {failure.what}"
    help_ = f"--chips {chips + 1}, or fewer entries"
    return DoesNotFit("sram", message, where=machine.name, help=help_)


def _followed(
    entries: Sequence[_Entry], first: int, leader: Candidate, machine: Machine
) -> list[Candidate]:
    """All entries where the first has placed what it wants. Raises `NoRoom`."""
    done, way = {first: leader}, leader
    for number in sorted(set(range(len(entries))) - {first}, key=lambda n: _needs(entries[n])):
        way = done[number] = _next(entries[number], leader, _placed_by(way), machine)
    return [done[number] for number in range(len(entries))]


def _next(entry: _Entry, first: Candidate, placed: Placed, machine: Machine) -> Candidate:
    """One entry on the chips of the first, which share it in the same way if they do."""
    graph, lowered, chips = entry.graph, entry.lowered, first.done.scheduler.chips
    system = first.plan.system
    if first.laid is not None and first.sharing is not None:
        fixed = held_by(first.laid, first.sharing)
        sharing = share(entry.laid, machine, first.sharing.ranks, fixed)
        graph = heads_together(shard(entry.laid, machine, sharing, joined=system == 1), machine)
        lowered = lower(graph, entry.options, machine)
    plan, lowered = fitted(machine, graph, lowered, system, placed, first.plan.loading)
    placed.check_states(lowered.values, lowered.steps)
    found = attempt(plan, lowered, chips, entry.options.effort)
    return Candidate(graph, plan, *found)


def _placed_by(way: Candidate) -> Placed:
    """What lies in SRAM once an entry is scheduled, with what the entries before it had placed."""
    before, s = way.lowered.placed or Placed(), way.done.scheduler
    storage, states = s.storage, dict(before.states)
    for value in way.lowered.values:
        if value.origin == "input" and value.source in way.lowered.states:
            rows, size = storage.pieces.get(value.number, []), value.type.bytes
            copies = [tuple(rows[at : at + size]) for at in range(0, len(rows), size)]
            states |= {form_of(value): copies} if copies else {}
    taken: list[dict[int, list[tuple[int, int]]]] = [{} for _ in range(s.chips)]
    for chip, queue, address, words in storage.image:
        taken[chip].setdefault(queue, []).append((address, len(words)))
    for piece in (piece for copies in states.values() for pieces in copies for piece in pieces):
        _, _, count, _, _, chip, queue, address = piece
        taken[chip].setdefault(queue, []).append((address, count))
    products = {**dealt_by(way.done.partition, way.lowered), **before.products}
    needed = instruction_bytes_of(way.plan, way.done)
    known = before.instructions or (0,) * s.chips
    return replace(
        before,
        chunk=storage.chunk,
        memories=tuple(m.after(t) for m, t in zip(storage.memories, taken, strict=True)),
        image=tuple(storage.image),
        instructions=tuple(a + b for a, b in zip(known, needed, strict=True)),
        held=way.done.held,
        products=products,
        blocks=_blocks(storage, s.names, before),
        states=states,
    )


def _blocks(storage: Storage, names: Mapping[int, str], before: Placed) -> dict[Key, list[Held]]:
    """Constants and tables in the image, by what is in their words."""
    words = {(chip, queue, address): part for chip, queue, address, part in storage.image}
    found = {key: list(blocks) for key, blocks in before.blocks.items()}
    tables = {key: [copy] for key, copy in storage.tables.items()}
    for ((number, chunk, tile), chip), copies in [*storage.copies.items(), *tables.items()]:
        for copy in copies:
            parts = [words[place] for p in copy.planes if (place := (chip, *p)) in words]
            held = Held(chip, copy.side, copy.planes)
            if len(parts) == len(copy.planes):
                alike = found.setdefault(contents(parts, names[number], chunk, tile), [])
                alike += [held] if held not in alike else []
    return found


def _needs(entry: _Entry) -> tuple[bool, int]:
    """What puts rows in place first, for it wants one copy of a state; then those of few rows."""
    puts = any(isinstance(step, Put) for step in entry.lowered.steps)
    return not puts, sum(step.out.rows for step in entry.lowered.steps)
