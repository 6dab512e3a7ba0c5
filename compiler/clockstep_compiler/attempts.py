"""Schedules that fit: on so many chips, or on as few as do, and the shortest of several.

What is tried, and in which order, depends on the model and the options alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from clockstep_compiler.driver import TALL, Schedule, least_chips, schedule
from clockstep_compiler.facts import instruction_bytes_of
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.options import Options
from clockstep_compiler.partition import total_words
from clockstep_compiler.split import split
from clockstep_compiler.steps import Lowered
from clockstep_compiler.storage import NoRoom, NoWave
from clockstep_compiler.stripes import WEIGHTS
from clockstep_isa.diagnostics import DoesNotFit

__all__ = ["attempt", "fewest", "fitting", "refused"]


_CUTS = 16
"""Steps that are cut at most because no wave takes their operands from where they come to lie."""


def attempt(plan: Floorplan, lowered: Lowered, chips: int, effort: str) -> tuple[Lowered, Schedule]:
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
            done = fitting(plan, lowered, chips, effort, reserve, trial, sweep)
        except NoRoom as error:
            failures.append(error.bare())
            continue
        return _shortest(plan, lowered, chips, effort, reserve, done, sweep)
    raise failures[0]


def fitting(
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
            other = fitting(plan, lowered, chips, effort, reserve, trial, sweep)
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
    placed = s.storage.placed
    before = placed.instructions if placed and placed.instructions else (0,) * s.chips
    for chip, own in enumerate(instruction_bytes_of(plan, done)):
        needed = own + before[chip]
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


def fewest(plan: Floorplan, lowered: Lowered, options: Options) -> tuple[Lowered, Schedule]:
    failure: NoRoom | None = None
    for chips in _candidates(plan, lowered):
        try:
            return attempt(plan, lowered, chips, options.effort)
        except NoRoom as error:
            failure = failure or error.bare()
    raise _does_not_fit(plan, lowered, _most_chips(plan, lowered), failure, None)


def refused(
    plan: Floorplan, lowered: Lowered, options: Options, failure: NoRoom | None
) -> DoesNotFit:
    """Why the chips asked for do not do, and how many would."""
    asked = options.chips or 1
    for chips in (n for n in _candidates(plan, lowered) if n > asked):
        try:
            attempt(plan, lowered, chips, options.effort)
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
