"""When a bundle fits into the calendars: its rows, the streams it may choose, its weights.

The rows are rigid. The streams of operands and results are any that are free, and weights come
whenever there is time between the array before and the kernel that needs them.
"""

from __future__ import annotations

from functools import lru_cache

from clockstep_compiler.bundle import Bundle, Choice, Load
from clockstep_compiler.calendar import Calendars, Reservation
from clockstep_compiler.floorplan import Floorplan

__all__ = ["fit", "fit_settled", "free_streams"]

_NEVER = 1 << 60

_EARLY = (0, 32, 128, _NEVER)
"""Cycles before the last moment from which on a time to load weights is looked for: kernels yet to
come may find room in a gap before this one, but not while its weights wait in the buffer."""


def fit(plan: Floorplan, calendars: Calendars, bundle: Bundle, time: int) -> int:
    """The first time from `time` on when a bundle's own and its choices of streams are free, and
    its weights can be loaded before; when they are is settled.

    Where its own leave none to choose, those of the wave as it was planned.
    """
    while True:
        found, wait = free_streams(plan, calendars, bundle, time)
        if wait == _NEVER:
            return fit_settled(calendars, bundle, time)
        if len(found) == len(bundle.choices):
            taken = list(bundle.reservations)
            for choice, base in zip(bundle.choices, found, strict=True):
                taken += bundle.held(choice, base)
            wait = _settle_loads(calendars, bundle, taken, time)
            if wait == time:
                return time
        time = _after(calendars, bundle, bundle.reservations, wait)


def fit_settled(calendars: Calendars, bundle: Bundle, time: int) -> int:
    """The same with its choices of streams as they stand."""
    settled = bundle.settled()
    while True:
        time = _after(calendars, bundle, settled, time)
        wait = _settle_loads(calendars, bundle, settled, time)
        if wait == time:
            return time
        time = wait


def _after(calendars: Calendars, bundle: Bundle, taken: list[Reservation], wait: int) -> int:
    """The first time from `wait` on when all of `taken` is free; what it waits for, if anything."""
    time = calendars.earliest(taken, wait)
    if time > wait:
        bundle.blocked, bundle.late = calendars.blocked, None
    return time


def free_streams(
    plan: Floorplan, calendars: Calendars, bundle: Bundle, time: int
) -> tuple[list[int], int]:
    """Free streams for choices, all of them or those before the first that has none.

    Also the time at which there might be some for that one.
    """
    m = plan.machine
    weights = plan.install_streams * m.mxm.planes_per_hemisphere
    found: list[int] = []
    taken: list[Choice] = []
    for choice in bundle.choices:
        own, wait = choice.own, _NEVER
        for other in taken:
            if other.direction == choice.direction and (
                other.first <= choice.last and choice.first <= other.last
            ):
                own |= ((1 << other.width) - 1) << other.base
        for base in _order(m.streams.per_direction, weights, choice.width):
            if own >> base & ((1 << choice.width) - 1):
                continue
            free = calendars.earliest(bundle.held(choice, base), time)
            wait = min(wait, free)
            if free == time:
                found.append(base)
                taken.append(choice._replace(base=base))
                break
        else:
            bundle.blocked, bundle.late = calendars.blocked, None
            assert wait > time, "no stream is the bundle's to take"
            return found, wait
    return found, time


@lru_cache(maxsize=64)
def _order(streams: int, weights: int, width: int) -> tuple[int, ...]:
    """Streams that carry no weights first; narrow operands from one end, wide from the other."""
    bases = range(0, streams, width)
    return tuple(sorted(bases, key=lambda base: (base < weights, base if width < 4 else -base)))


def _settle_loads(calendars: Calendars, bundle: Bundle, taken: list[Reservation], time: int) -> int:
    """Settle when a kernel loads its weights that takes `taken`, if it may be at `time`.

    If it may not, a time from which on it might.
    """
    bundle.loaded.clear()
    if not bundle.loads:
        return time
    wanted = {r for load in bundle.loads for r, _, _ in load.bundle.reservations}
    own = Calendars()
    own.reserve((r for r in taken if r[0] in wanted), time, 0)
    for number, load in enumerate(bundle.loads):
        at, ready = _load_time(calendars, own, load, time + load.due)
        if at is None:
            bundle.late = number
            return max(time + 1, ready - load.due)
        own.reserve(load.bundle.reservations, at, 0)
        bundle.loaded.append(at)
    return time


def _load_time(
    calendars: Calendars, own: Calendars, load: Load, due: int
) -> tuple[int | None, int]:
    """When weights can be loaded so as to be there when they are due: late rather than early.

    None if they cannot; and when they would be there, whatever else their kernel takes.
    """
    first = max(load.bundle.not_before, -load.bundle.first)
    first = max(first, *(calendars.free_since(buffer, due) for buffer in load.buffers))
    reservations, last = load.bundle.reservations, due - load.cycles
    starts = {max(first, last - early) for early in _EARLY if last >= first}
    for at in sorted(starts, reverse=True):
        while at <= last:
            free = calendars.earliest(reservations, at)
            at = own.earliest(reservations, free)
            if at == free and at <= last:
                return at, at + load.cycles
    return None, calendars.earliest(reservations, first) + load.cycles
