"""The compiler: its stages in order, and the search for the number of chips.

import -> lay out -> (share ->) lower -> spare -> fold -> split -> (partition, schedule on n chips,
until it fits) -> emit. Each stage takes and returns frozen data; the reasons for the order are in
`ORDER`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from clockstep_compiler.arranged import arranged
from clockstep_compiler.attempts import attempt, fewest, fitting, refused
from clockstep_compiler.chosen import in_words
from clockstep_compiler.dealing import busiest, by_time
from clockstep_compiler.driver import Schedule
from clockstep_compiler.emit import emit
from clockstep_compiler.facts import facts
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.fold import fold
from clockstep_compiler.frontend import Model, Survey, survey
from clockstep_compiler.graph import Graph
from clockstep_compiler.heads import heads_together
from clockstep_compiler.lowering import lower
from clockstep_compiler.options import EFFORTS, OBJECTIVES, PRECISIONS, Options
from clockstep_compiler.partition import mostly_loads
from clockstep_compiler.pipelined import least_ranks, pipelined
from clockstep_compiler.placed import Placed
from clockstep_compiler.problems import lowered_survey
from clockstep_compiler.shard import Sharing, shard, share, sharings
from clockstep_compiler.spare import spared
from clockstep_compiler.split import split
from clockstep_compiler.states import stated
from clockstep_compiler.steps import Lowered
from clockstep_compiler.storage import NoRoom, NoWave
from clockstep_isa.diagnostics import Diagnostic, DoesNotFit, UnsupportedModel, UsageError
from clockstep_isa.machine import Machine
from clockstep_isa.program import Program

__all__ = [
    "ORDER",
    "Candidate",
    "Check",
    "Problem",
    "check_model",
    "check_options",
    "compile_graph",
    "compile_model",
    "emitted",
    "fitted",
    "stage_ways",
    "ways",
]

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
    check_options(machine, options)
    found = [survey(model, options)]
    program = _in_stages(found[0], machine, options)
    if program is not None:
        return program
    # Nothing here may hold the survey: its weights may soon lie in another order.
    made = lowered_survey(found.pop(), options, machine)
    return emitted(ways(*made, machine, options)[0], options)


def _in_stages(found: Survey, machine: Machine, options: Options) -> Program | None:
    def compile_one(graphs: Sequence[Graph], ones: Sequence[Options]) -> list[Program]:
        return [compile_stage(graph, machine, one) for graph, one in zip(graphs, ones, strict=True)]

    if found.problems:
        return None
    programs = pipelined([found.graph], machine, [options], compile_one)
    return None if programs is None else programs[0]


def compile_graph(graph: Graph, machine: Machine, options: Options, system: int = 1) -> Program:
    """`compile_model` from where the frontend ends, for the first chips of a system."""
    laid = replace(arranged(graph, machine), states=graph.states)
    graph = heads_together(laid, machine)
    lowered = lower(graph, options, machine)
    return emitted(ways(laid, graph, lowered, machine, options, system)[0], options)


def compile_stage(graph: Graph, machine: Machine, options: Options) -> Program:
    """`compile_graph` for the first chips of a node, which share what one of them cannot hold."""
    return emitted(next(stage_ways(graph, machine, options)), options)


def stage_ways(
    graph: Graph, machine: Machine, options: Options, placed: Placed | None = None
) -> Iterator[Candidate]:
    """Ways to compile a stage for the first chips of a node, one at least.

    Ranks are as few as will do, and so many that a node has room for several stages alike. Raises
    `NoRoom` or `DoesNotFit` if there is no room for another way.
    """
    node, least = machine.system.chips_per_node, least_ranks(graph, machine)
    laid = replace(arranged(graph, machine), states=graph.states)
    if least > 1:
        alone = share(laid, machine, 1).cycles
        for ranks in (n for n in range(least, node + 1) if node % n == 0):
            sharing = share(laid, machine, ranks)
            if sharing.cycles < alone:
                try:
                    way = _on_ranks(laid, machine, options, sharing, placed)
                except NoRoom:
                    if ranks == node:
                        raise
                else:
                    yield way
    graph = heads_together(laid, machine)
    yield from ways(laid, graph, lower(graph, options, machine), machine, options, node, placed)


def _on_ranks(
    laid: Graph, machine: Machine, options: Options, sharing: Sharing, placed: Placed | None
) -> Candidate:
    """A graph shared as said. Raises `NoRoom` if the ranks do not hold it."""
    part = heads_together(shard(laid, machine, sharing, joined=False), machine)
    lowered, node = lower(part, options, machine), machine.system.chips_per_node
    plan, lowered = fitted(machine, part, lowered, node, placed)
    done = attempt(plan, lowered, sharing.ranks, options.effort)
    return Candidate(part, plan, *done, laid=laid, sharing=sharing)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to compile a model, up to its schedule; `sharing` is how several chips share what is
    `laid` out."""

    graph: Graph
    plan: Floorplan
    lowered: Lowered
    done: Schedule
    copies: int = 1
    laid: Graph | None = None
    sharing: Sharing | None = None


def ways(
    laid: Graph,
    graph: Graph,
    lowered: Lowered,
    machine: Machine,
    options: Options,
    system: int = 1,
    placed: Placed | None = None,
) -> list[Candidate]:
    """Schedules of a graph, and with several chips of what they share of it as `laid`; the best
    first. `placed` is for entries of one program.

    Raises `DoesNotFit` if no way has room.
    """
    plan, lowered = fitted(machine, graph, lowered, system, placed)
    copies, done = _copied(plan, lowered, options)
    if done is not None:
        return [Candidate(graph, plan, *done, copies)]
    chips = options.chips
    if chips is None:
        found = _by_time(plan, fewest(plan, lowered, options), options)
        return [Candidate(graph, plan, *found)]
    candidates, failure = [], None
    try:
        found = _by_time(plan, attempt(plan, lowered, chips, options.effort), options)
        candidates.append(Candidate(graph, plan, *found))
    except NoRoom as error:
        failure = error.bare()
    if options.objective == "latency" and chips > 1:
        candidates += _shared(laid, machine, options, system, placed)
    if not candidates:
        raise refused(plan, lowered, options, failure)
    return sorted(candidates, key=lambda candidate: candidate.done.scheduler.makespan)


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
            found = attempt(plan, lowered, chips // options.copies, options.effort)
        except NoRoom as error:
            raise refused(plan, lowered, one, error.bare()) from None
        return options.copies, _by_time(plan, found, options)
    if options.objective == "throughput" and options.copies is None and not lowered.states:
        for copies in (n for n in range(chips, 1, -1) if chips % n == 0):
            try:
                done = attempt(plan, lowered, chips // copies, options.effort)
            except NoRoom:
                continue
            return copies, _by_time(plan, done, options)
    return 1, None


def emitted(best: Candidate, options: Options) -> Program:
    """The program of a schedule."""
    info = facts(best.plan, best.graph, best.lowered, best.done, options)
    program = emit(best.graph, best.lowered, best.done, options.weights, info)
    makespan = best.done.scheduler.makespan
    assert program.cycles == makespan, "causes are of another number of cycles"
    return program if best.copies == 1 else replace(program, copies=best.copies)


def _shared(
    graph: Graph, machine: Machine, options: Options, system: int, placed: Placed | None
) -> Iterator[Candidate]:
    """The graph on one of the chips alone, and shared by as many as make it shortest."""
    chips = options.chips or 1
    for sharing in sharings(graph, machine, chips):
        part = heads_together(shard(graph, machine, sharing), machine)
        lowered = lower(part, options, machine)
        plan, lowered = fitted(machine, part, lowered, system, placed)
        try:
            found = attempt(plan, lowered, chips, options.effort)
        except NoRoom:
            continue
        yield Candidate(part, plan, *found, laid=graph, sharing=sharing)


def check_model(model: Model, machine: Machine, options: Options) -> Check:
    """Everything that keeps a model from compiling, without stopping at the first."""
    check_options(machine, options)
    try:
        found = [survey(model, options)]
        program = _in_stages(found[0], machine, options)
        if program is not None:
            return Check(True, (), program.chips)
        made = lowered_survey(found.pop(), options, machine)
    except UnsupportedModel as error:
        return Check(False, tuple(_problem(d) for d in error.diagnostics), None)
    try:
        best = ways(*made, machine, options)[0]
    except DoesNotFit as error:
        d = error.diagnostic
        return Check(False, (Problem("", "", 0, d.message, d.help),), None)
    return Check(True, (), best.copies * best.done.scheduler.chips)


def fitted(
    machine: Machine,
    graph: Graph,
    lowered: Lowered,
    system: int = 1,
    placed: Placed | None = None,
    loading: bool | None = None,
) -> tuple[Floorplan, Lowered]:
    """What the waves of a machine can run, and the machine as it suits that best.

    Or one that is `loading` weights most of the time or not, as is said.
    """
    plan = Floorplan(machine, system=system)
    lowered = split(plan, stated(graph, fold(plan, spared(plan, lowered))))
    plan = replace(plan, loading=mostly_loads(lowered) if loading is None else loading)
    return plan, replace(in_words(plan, lowered), placed=placed)


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
        known = fitting(plan, lowered, 1, options.effort, words // 4, 0, True)
    homes = by_time(plan, lowered, known, done.scheduler.chips)
    for reserve in (words // 4, words // 16) if homes else ():
        with suppress(NoRoom, NoWave):
            chips = done.scheduler.chips
            other = fitting(plan, lowered, chips, options.effort, reserve, 0, True, homes)
            return lowered, min(done, other, key=lambda one: busiest(plan, one))
    return found


def _problem(d: Diagnostic) -> Problem:
    """A diagnostic without a node is about the model or one of its tensors."""
    return Problem(d.node or d.where, d.op, d.opset, d.message, d.help)


def check_options(machine: Machine, options: Options) -> None:
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
