"""The compiler: its stages in order, and the search for the number of chips.

import -> lay out -> (share ->) lower -> spare -> fold -> split -> (partition, schedule on n chips,
until it fits) -> emit. Each stage takes and returns frozen data; the reasons for the order are in
`ORDER`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from clockstep_compiler.arranged import arranged
from clockstep_compiler.chosen import in_words
from clockstep_compiler.dealing import busiest, by_time
from clockstep_compiler.driver import TALL, Schedule, least_chips, schedule
from clockstep_compiler.emit import emit
from clockstep_compiler.facts import facts, instruction_bytes_of
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.fold import fold
from clockstep_compiler.frontend import Model, Survey, survey
from clockstep_compiler.graph import Graph
from clockstep_compiler.heads import heads_together
from clockstep_compiler.lowering import lower
from clockstep_compiler.options import EFFORTS, OBJECTIVES, PRECISIONS, Options
from clockstep_compiler.partition import mostly_loads, total_words
from clockstep_compiler.pipelined import least_ranks, pipelined
from clockstep_compiler.problems import lowered_survey
from clockstep_compiler.shard import Sharing, shard, share, sharings
from clockstep_compiler.spare import spared
from clockstep_compiler.split import split
from clockstep_compiler.states import stated
from clockstep_compiler.steps import Lowered
from clockstep_compiler.storage import NoRoom, NoWave
from clockstep_compiler.stripes import WEIGHTS
from clockstep_isa.diagnostics import Diagnostic, DoesNotFit, UnsupportedModel, UsageError
from clockstep_isa.machine import Machine
from clockstep_isa.program import Program

__all__ = ["ORDER", "Check", "Problem", "check_model", "compile_graph", "compile_model"]

ORDER = (
    ("import", "lay out", "what may be moved is known once shapes and indices are"),
    ("lay out", "share", "the ranks share what is left once tensors lie as the array wants them"),
    ("share", "lower", "what a chip has of a tensor is a tensor, and of a product a product"),
    ("lay out", "lower", "lowering takes every tensor as it lies: its last axis along the lanes"),
    ("lower", "spare", "only all readers of a matrix show whether it is needed"),
    ("spare", "fold", "only the rows that every step reads show what may lie side by side"),
    ("fold", "state", "what is written back has the form that folding gave the input"),
    ("state", "split", "a step that brings a state back is one like any other"),
    ("fold", "split", "only a lowered expression shows how many ALUs and slices it takes"),
    ("split", "partition", "a split step is a step of its own, with groups of its own"),
    ("partition", "schedule", "blocks are made where their weights are"),
    ("schedule", "emit", "emission only writes down what is fixed"),
)
"""(before, after, why)."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why a model cannot be compiled."""

    node: str
    op: str
    opset: int
    reason: str
    hint: str


@dataclass(frozen=True, slots=True)
class Check:
    """What `clockstep check` says: every problem at once, and the chips it would take."""

    supported: bool
    problems: tuple[Problem, ...]
    chips_needed: int | None


def compile_model(model: Model, machine: Machine, options: Options) -> Program:
    """Compile an ONNX model (path, bytes or proto) for a machine.

    Raises `UnsupportedModel` naming every node that cannot be compiled, `DoesNotFit` if the chips
    do not hold it, `MalformedFile` or `UsageError` for what is wrong with the file or options.
    """
    _check_options(machine, options)
    found = [survey(model, options)]
    program = _in_stages(found[0], machine, options)
    if program is not None:
        return program
    # Nothing here may hold the survey: its weights may soon lie in another order.
    made = lowered_survey(found.pop(), options, machine)
    return _emitted(_best(*made, machine, options), options)


def _in_stages(found: Survey, machine: Machine, options: Options) -> Program | None:
    def compile_one(graph: Graph, one: Options) -> Program:
        return compile_stage(graph, machine, one)

    return None if found.problems else pipelined(found.graph, machine, options, compile_one)


def compile_graph(graph: Graph, machine: Machine, options: Options, system: int = 1) -> Program:
    """`compile_model` from where the frontend ends, for the first chips of a system."""
    laid = replace(arranged(graph, machine), states=graph.states)
    graph = heads_together(laid, machine)
    lowered = lower(graph, options, machine)
    return _emitted(_best(laid, graph, lowered, machine, options, system), options)


def compile_stage(graph: Graph, machine: Machine, options: Options) -> Program:
    """`compile_graph` for the first chips of a node, which share what one of them cannot hold.

    They are as few as will do, and so many that a node has room for several stages alike.
    """
    node, least = machine.system.chips_per_node, least_ranks(graph, machine)
    if least > 1:
        laid = replace(arranged(graph, machine), states=graph.states)
        alone = share(laid, machine, 1).cycles
        for ranks in (n for n in range(least, node + 1) if node % n == 0):
            sharing = share(laid, machine, ranks)
            if sharing.cycles < alone:
                try:
                    return _on_ranks(laid, machine, options, sharing)
                except NoRoom:
                    if ranks == node:
                        raise
    return compile_graph(graph, machine, options, node)


def _on_ranks(graph: Graph, machine: Machine, options: Options, sharing: Sharing) -> Program:
    """A graph shared as said. Raises `NoRoom` if the ranks do not hold it."""
    part = heads_together(shard(graph, machine, sharing, joined=False), machine)
    lowered = lower(part, options, machine)
    plan, fitted = _fitted(machine, part, lowered, machine.system.chips_per_node)
    done = _attempt(plan, fitted, sharing.ranks, options.effort)
    return _emitted(_Candidate(part, plan, *done), options)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """One way to compile a model, up to its schedule."""

    graph: Graph
    plan: Floorplan
    lowered: Lowered
    done: Schedule
    copies: int = 1


def _best(
    laid: Graph,
    graph: Graph,
    lowered: Lowered,
    machine: Machine,
    options: Options,
    system: int = 1,
) -> _Candidate:
    """The best schedule of a graph, or, with several chips, of what they share of it as `laid`.

    Raises `DoesNotFit` if no way has room.
    """
    plan, fitted = _fitted(machine, graph, lowered, system)
    copies, done = _copied(plan, fitted, options)
    if done is not None:
        return _Candidate(graph, plan, *done, copies)
    chips = options.chips
    if chips is None:
        found = _by_time(plan, _fewest(plan, fitted, options), options)
        return _Candidate(graph, plan, *found)
    candidates, failure = [], None
    try:
        found = _by_time(plan, _attempt(plan, fitted, chips, options.effort), options)
        candidates.append(_Candidate(graph, plan, *found))
    except NoRoom as error:
        failure = error.bare()
    if options.objective == "latency" and chips > 1:
        candidates += _shared(laid, machine, options, system)
    if not candidates:
        raise _refused(plan, fitted, options, failure)
    return min(candidates, key=lambda candidate: candidate.done.scheduler.makespan)


def _copied(
    plan: Floorplan, lowered: Lowered, options: Options
) -> tuple[int, tuple[Lowered, Schedule] | None]:
    """How many copies of a model take runs in turn, and one of them, if there are several.

    They are as many as asked for, or as there is room for. A state stays where it is, and so do
    all runs that go on from it: no copies of these.
    """
    chips = options.chips or 1
    if options.copies is not None and options.copies > 1:
        if lowered.states:
            message = f"--copies {options.copies}: a run finds what the one before left in one"
            raise UsageError("copies", message, help="--copies 1")
        one = replace(options, chips=chips // options.copies)
        try:
            found = _attempt(plan, lowered, chips // options.copies, options.effort)
        except NoRoom as error:
            raise _refused(plan, lowered, one, error.bare()) from None
        return options.copies, _by_time(plan, found, options)
    if options.objective == "throughput" and options.copies is None and not lowered.states:
        for copies in (n for n in range(chips, 1, -1) if chips % n == 0):
            try:
                done = _attempt(plan, lowered, chips // copies, options.effort)
            except NoRoom:
                continue
            return copies, _by_time(plan, done, options)
    return 1, None


def _emitted(best: _Candidate, options: Options) -> Program:
    """The program of a schedule."""
    info = facts(best.plan, best.graph, best.lowered, best.done, options)
    program = emit(best.graph, best.lowered, best.done, options.weights, info)
    makespan = best.done.scheduler.makespan
    assert program.cycles == makespan, "causes are of another number of cycles"
    return program if best.copies == 1 else replace(program, copies=best.copies)


def _shared(graph: Graph, machine: Machine, options: Options, system: int) -> Iterator[_Candidate]:
    """The graph on one of the chips alone, and shared by as many as make it shortest."""
    chips = options.chips or 1
    for sharing in sharings(graph, machine, chips):
        part = heads_together(shard(graph, machine, sharing), machine)
        plan, lowered = _fitted(machine, part, lower(part, options, machine), system)
        try:
            yield _Candidate(part, plan, *_attempt(plan, lowered, chips, options.effort))
        except NoRoom:
            continue


def check_model(model: Model, machine: Machine, options: Options) -> Check:
    """Everything that keeps a model from compiling, without stopping at the first."""
    _check_options(machine, options)
    try:
        found = [survey(model, options)]
        program = _in_stages(found[0], machine, options)
        if program is not None:
            return Check(True, (), program.chips)
        made = lowered_survey(found.pop(), options, machine)
    except UnsupportedModel as error:
        return Check(False, tuple(_problem(d) for d in error.diagnostics), None)
    try:
        best = _best(*made, machine, options)
    except DoesNotFit as error:
        d = error.diagnostic
        return Check(False, (Problem("", "", 0, d.message, d.help),), None)
    return Check(True, (), best.copies * best.done.scheduler.chips)


def _fitted(
    machine: Machine, graph: Graph, lowered: Lowered, system: int = 1
) -> tuple[Floorplan, Lowered]:
    """What the waves of a machine can run, and the machine as it suits that best."""
    plan = Floorplan(machine, system=system)
    lowered = split(plan, stated(graph, fold(plan, spared(plan, lowered))))
    plan = replace(plan, loading=mostly_loads(lowered))
    return plan, in_words(plan, lowered)


def _by_time(
    plan: Floorplan, found: tuple[Lowered, Schedule], options: Options
) -> tuple[Lowered, Schedule]:
    """Under "throughput" the steps dealt to the same chips by time, if runs may then start sooner.

    What they take is known from one chip, or if that does not hold them from what was found.
    """
    lowered, done = found
    if options.objective != "throughput" or done.scheduler.chips == 1:
        return found
    known = done
    words = plan.machine.words_per_slice
    with suppress(NoRoom, NoWave):
        known = _fitting(plan, lowered, 1, options.effort, words // 4, 0, True)
    homes = by_time(plan, lowered, known, done.scheduler.chips)
    for reserve in (words // 4, words // 16) if homes else ():
        with suppress(NoRoom, NoWave):
            chips = done.scheduler.chips
            other = _fitting(plan, lowered, chips, options.effort, reserve, 0, True, homes)
            return lowered, min(done, other, key=lambda one: busiest(plan, one))
    return found


def _problem(d: Diagnostic) -> Problem:
    """A diagnostic without a node is about the model or one of its tensors."""
    return Problem(d.node or d.where, d.op, d.opset, d.message, d.help)


def _check_options(machine: Machine, options: Options) -> None:
    for name, value, known in (
        ("precision", options.precision, PRECISIONS),
        ("effort", options.effort, EFFORTS),
        ("objective", options.objective, OBJECTIVES),
    ):
        if value not in known:
            raise UsageError("option", f"{name} {value!r}", help=", ".join(known))
    _check_copies(options)
    if options.chips is not None and not 1 <= options.chips <= machine.max_chips:
        raise UsageError(
            "chips", f"--chips {options.chips}: the machine has 1 to {machine.max_chips}"
        )


def _check_copies(options: Options) -> None:
    chips, copies = options.chips or 1, options.copies
    if copies is None or copies == 1:
        return
    if copies < 1 or chips % copies:
        message = f"--copies {copies}: {chips} chip{'s' * (chips > 1)} cannot be dealt to so many"
        raise UsageError("copies", message, help="--chips N, and a divisor of N")
    if options.objective != "throughput":
        message = f"--copies {copies}: one run takes as long on one of them"
        raise UsageError("copies", message, help="--objective throughput")


# -- how many chips --------------------------------------------------------------------------


_CUTS = 16
"""Steps that are cut at most because no wave takes their operands from where they come to lie."""


def _attempt(
    plan: Floorplan, lowered: Lowered, chips: int, effort: str
) -> tuple[Lowered, Schedule]:
    """A schedule on exactly `chips`, and the steps that it is of."""
    for _ in range(_CUTS):
        try:
            return lowered, _uncut(plan, lowered, chips, effort)
        except NoWave as error:
            lowered = split(plan, lowered, frozenset({error.step}))
    return lowered, _uncut(plan, lowered, chips, effort)


def _uncut(plan: Floorplan, lowered: Lowered, chips: int, effort: str) -> Schedule:
    """A schedule on exactly `chips`, with as much room kept free of weights as these leave.

    If that fails, in blocks of more rows: sources that one wave reads then lie in fewer slices.
    """
    words = plan.machine.words_per_slice
    failures: list[NoRoom] = []
    reserves: tuple[int, ...] = (words // 4, words // 16, 0)
    if 8 * total_words(plan, lowered) < chips * plan.machine.words_per_chip:
        reserves = reserves[:1]  # weights are not what fills the chips
    # Weights of a stage may well fill its chips: it is swept all the same.
    full = 4 * total_words(plan, lowered) > 3 * chips * plan.machine.words_per_chip
    swept = reserves if full else reserves[:2] if plan.system > 1 else reserves[:1]
    for reserve, trial, sweep in (
        *((reserve, 0, True) for reserve in swept),
        *((reserve, 0, False) for reserve in reserves),
        (words // 16, TALL, False),
    ):
        again = len(failures) > (0 if sweep else len(swept))
        if again and failures[-1].what != WEIGHTS and not trial:
            continue  # more weights in a slice leave no more room
        try:
            done = _fitting(plan, lowered, chips, effort, reserve, trial, sweep)
        except NoRoom as error:
            failures.append(error.bare())
            continue
        return _shortest(plan, lowered, chips, effort, reserve, done, sweep)
    raise failures[0]


def _fitting(
    plan: Floorplan,
    lowered: Lowered,
    chips: int,
    effort: str,
    reserve: int,
    trial: int,
    sweep: bool,
    dealt: Mapping[int, int] | None = None,
) -> Schedule:
    """A schedule whose instructions have room, too."""
    done = schedule(plan, lowered, chips, effort, reserve, trial, sweep=sweep, dealt=dealt)
    _instructions_fit(plan, done)
    return done


_SEARCH = {"fast": 0, "standard": 3_000, "high": 200_000}
"""Instructions that may be scheduled in further trials of a program that fits."""


def _shortest(
    plan: Floorplan,
    lowered: Lowered,
    chips: int,
    effort: str,
    reserve: int,
    done: Schedule,
    sweep: bool,
) -> Schedule:
    """The shortest of several schedules; how many are tried depends on their size alone."""
    best = done
    trials = min(8, _SEARCH[effort] // max(1, done.scheduler.instructions))
    for trial in range(1, trials + 1):
        try:
            other = _fitting(plan, lowered, chips, effort, reserve, trial, sweep)
        except NoRoom:
            continue
        if other.scheduler.makespan < best.scheduler.makespan:
            best = other
    return best


def _instructions_fit(plan: Floorplan, done: Schedule) -> None:
    """Instructions lie in the same SRAM, in words that nothing else ever uses."""
    if not plan.machine.icu.instructions_in_sram:
        return
    s = done.scheduler
    for chip, needed in enumerate(instruction_bytes_of(plan, done)):
        free = s.storage.memories[chip].untouched()
        words = -(-needed // plan.machine.vector)
        if words > free + done.held:
            raise NoRoom(chip, "instructions", words - free - done.held)


def _candidates(plan: Floorplan, lowered: Lowered) -> Iterator[int]:
    """Chip counts worth trying: from what would fit without a gap, one by one, then in strides."""
    chips = least_chips(plan, lowered)
    first, most = chips, _most_chips(plan, lowered)
    while chips <= most:
        yield chips
        chips += 1 if chips < first + 8 else max(1, chips // 8)


def _most_chips(plan: Floorplan, lowered: Lowered) -> int:
    """The most chips worth trying: racks of them only where the weights cannot do without."""
    few = plan.machine.direct_chips
    return few if least_chips(plan, lowered) <= few else plan.machine.max_chips


def _fewest(plan: Floorplan, lowered: Lowered, options: Options) -> tuple[Lowered, Schedule]:
    failure: NoRoom | None = None
    for chips in _candidates(plan, lowered):
        try:
            return _attempt(plan, lowered, chips, options.effort)
        except NoRoom as error:
            failure = failure or error.bare()
    raise _does_not_fit(plan, lowered, _most_chips(plan, lowered), failure, None)


def _refused(
    plan: Floorplan, lowered: Lowered, options: Options, failure: NoRoom | None
) -> DoesNotFit:
    """Why the chips asked for do not do, and how many would."""
    asked = options.chips or 1
    for chips in (n for n in _candidates(plan, lowered) if n > asked):
        try:
            _attempt(plan, lowered, chips, options.effort)
        except NoRoom:
            continue
        return _does_not_fit(plan, lowered, asked, failure, chips)
    return _does_not_fit(plan, lowered, asked, failure, None)


def _does_not_fit(
    plan: Floorplan, lowered: Lowered, chips: int, failure: NoRoom | None, enough: int | None
) -> DoesNotFit:
    machine = plan.machine
    weights = total_words(plan, lowered) * machine.vector
    have = chips * machine.sram_bytes
    message = (
        f"{chips} chip{'s' if chips > 1 else ''} of {machine.sram_bytes:,} bytes hold {have:,}; "
    )
    message += f"the weights take {weights:,} in whole vectors"
    if failure is not None:
        message += f"; chip {failure.chip} lacks {failure.words:,} words for {failure.what}"
    remedy = (
        f"{enough} chips would do: --chips {enough}" if enough else "use a machine with more SRAM"
    )
    return DoesNotFit("sram", message, where=machine.name, help=remedy)
