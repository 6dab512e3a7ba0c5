"""Many mutants; each is made from its key alone, so that any can be made again."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from clockstep_isa import Program
from clockstep_runtime import interpret, random_inputs
from tests.mutation.chain import chained_mutant
from tests.mutation.change import Draw, Mutant
from tests.mutation.corpus import program
from tests.mutation.fields import field_mutant
from tests.mutation.judge import Judge, Subject, Verdict
from tests.mutation.structure import structural_mutant

__all__ = ["FAMILIES", "Key", "Result", "judged", "keys", "mutant", "run", "subject"]

FAMILIES: Mapping[str, Callable[[Program, Draw], Mutant]] = {
    "field": field_mutant,
    "structural": structural_mutant,
    "chain": chained_mutant,
}
"""What makes the mutants of each family."""

_CHUNK = 50
"""Mutants that a process takes at a time."""


@dataclass(frozen=True, slots=True)
class Key:
    """Names one mutant."""

    program: str
    family: str
    seed: int
    number: int


@dataclass(frozen=True, slots=True)
class Result:
    """The verdict on one mutant, and the field or change that made it."""

    key: Key
    what: str
    verdict: Verdict


@functools.cache
def subject(name: str) -> Subject:
    """The program `name` with random inputs, and what it makes of them."""
    made = program(name)
    inputs = random_inputs(made, 0)
    return Subject(made, inputs, interpret(made, inputs).outputs)


def mutant(key: Key) -> Mutant:
    """The mutant that `key` names; the same in any process."""
    name, family = zlib.crc32(key.program.encode()), list(FAMILIES).index(key.family)
    draw = Draw(key.seed, name, family, key.number)
    return FAMILIES[key.family](program(key.program), draw)


def judged(key: Key, judge: Judge | None = None) -> Result:
    """The verdict on the mutant that `key` names."""
    changed = mutant(key)
    return Result(key, changed.what, (judge or Judge()).judge(subject(key.program), changed))


def keys(names: Sequence[str], family: str, seed: int, count: int) -> list[Key]:
    """`count` mutants, as evenly over the programs as may be."""
    each, more = divmod(count, len(names))
    return [
        Key(name, family, seed, number)
        for i, name in enumerate(names)
        for number in range(each + (i < more))
    ]


def run(wanted: Sequence[Key], processes: int) -> Iterator[Result]:
    """The verdicts on many mutants, in their order, from several processes."""
    chunks = [wanted[i : i + _CHUNK] for i in range(0, len(wanted), _CHUNK)]
    if processes == 1:
        for chunk in chunks:
            yield from _judge_all(chunk)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for results in pool.map(_judge_all, chunks):
            yield from results


def _judge_all(wanted: Sequence[Key]) -> list[Result]:
    return [judged(key) for key in wanted]
