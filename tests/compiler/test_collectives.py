"""Collectives: right on every wiring and with every algorithm, in the order said, and fast."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import clockstep
from clockstep_compiler.collective_algorithms import ALGORITHMS
from clockstep_compiler.collective_program import COLLECTIVES
from clockstep_isa import Machine, load_machine
from tests.support.machines import machine

RACKS = load_machine("tiny", ["system.direct_nodes=1", "system.nodes_per_rack=2"])

SYSTEMS: dict[str, tuple[Machine, int]] = {
    "node": (machine("tiny"), 4),
    "pair": (machine("tiny"), 2),
    "nodes": (machine("tiny"), 12),
    "part": (machine("tiny"), 6),
    "racks": (RACKS, 16),
    "ring": (machine("ring"), 5),
    "narrow": (machine("narrow"), 4),
    "odd": (machine("odd"), 2),
}
"""Machines and how many of their chips take part."""

CASES = [
    (system, collective, algorithm)
    for system in SYSTEMS
    for collective in COLLECTIVES
    for algorithm in ALGORITHMS[collective]
    if (algorithm != "hierarchical" or system in ("node", "nodes"))
    and (algorithm != "nested" or system in ("nodes", "racks"))
]


def ran(program: clockstep.Program, x: NDArray[Any], engine: str = "fast") -> NDArray[Any]:
    assert clockstep.verify(program).ok
    session = clockstep.Session(program, engine)
    assert session.cycles == program.cycles
    return session.run({"x": x})["y"]


def expected(collective: str, x: NDArray[Any], chips: int) -> NDArray[Any]:
    if collective == "reduce-scatter":
        return x.sum(0, dtype=x.dtype)
    if collective == "send":
        return x
    total = x.sum(0, dtype=x.dtype) if collective == "all-reduce" else x
    return np.broadcast_to(total, (chips, *total.shape))


@pytest.mark.parametrize(("system", "collective", "algorithm"), CASES)
def test_every_algorithm_on_every_wiring(system: str, collective: str, algorithm: str) -> None:
    """Integers, which any order adds to the same sum."""
    on, chips = SYSTEMS[system]
    program = clockstep.collective(
        collective, bytes=700, chips=chips, type="i32", algorithm=algorithm, machine=on
    )
    binding = program.inputs[0]
    x = np.random.default_rng(7).integers(-1000, 1000, binding.shape).astype(binding.dtype)
    assert np.array_equal(ran(program, x), expected(collective, x, chips))


@pytest.mark.parametrize("collective", COLLECTIVES)
def test_the_interpreter_agrees(collective: str) -> None:
    program = clockstep.collective(collective, bytes=300, chips=6, machine="tiny")
    x = np.random.default_rng(1).normal(size=program.inputs[0].shape).astype(np.float16)
    assert np.array_equal(ran(program, x), ran(program, x, "reference"))


def tree(terms: list[NDArray[Any]]) -> NDArray[Any]:
    """Neighbours, then neighbours among the sums, and so on."""
    while len(terms) > 1:
        pairs = [a + b for a, b in zip(terms[::2], terms[1::2], strict=False)]
        terms = pairs + terms[2 * len(pairs) :]
    return terms[0]


@pytest.mark.parametrize("kind", ["f16", "f32"])
@pytest.mark.parametrize("algorithm", ["direct", "scatter", "ring"])
def test_floats_are_added_in_the_order_said(algorithm: str, kind: str) -> None:
    chips = 4
    program = clockstep.collective(
        "all-reduce", bytes=600, chips=chips, type=kind, algorithm=algorithm, machine="tiny"
    )
    binding = program.inputs[0]
    x = np.random.default_rng(3).normal(size=binding.shape).astype(binding.dtype)
    if algorithm != "ring":
        total = tree(list(x))
    else:
        # Block k starts on the chip after the k-th, and each of the next adds its own.
        share = -(-x.shape[1] // chips)
        blocks = [slice(k * share, (k + 1) * share) for k in range(chips)]
        order = [[x[(k + 1 + i) % chips, b] for i in range(chips)] for k, b in enumerate(blocks)]
        total = np.concatenate([reduce(np.add, terms) for terms in order])
    assert np.array_equal(ran(program, x), np.broadcast_to(total, x.shape))


@pytest.mark.parametrize(
    ("collective", "size", "chosen"),
    [
        ("all-reduce", 2048, "direct"),
        ("all-reduce", 2**20, "scatter"),
        ("broadcast", 2048, "direct"),
        ("broadcast", 2**20, "scatter"),
        ("send", 320, "direct"),
        ("send", 2**18, "spread"),
    ],
)
def test_the_algorithm_goes_by_size(collective: str, size: int, chosen: str) -> None:
    program = clockstep.collective(collective, bytes=size)
    assert program.info["algorithm"] == chosen
    others = set(ALGORITHMS[collective]) & {"direct", "scatter", "spread"}
    for other in others - {chosen}:
        worse = clockstep.collective(collective, bytes=size, algorithm=other)
        assert worse.cycles >= program.cycles


@pytest.mark.parametrize(("system", "size"), [("ring", 2000), ("nodes", 640), ("node", 100)])
def test_the_algorithm_goes_by_wiring(system: str, size: int) -> None:
    on, chips = SYSTEMS[system]
    program = clockstep.collective("all-reduce", bytes=size, chips=chips, machine=on)
    for other in program.info["estimates"]:
        made = clockstep.collective(
            "all-reduce", bytes=size, chips=chips, machine=on, algorithm=other
        )
        assert made.cycles >= program.cycles


@pytest.mark.parametrize("collective", ["all-reduce", "all-gather", "reduce-scatter"])
def test_links_are_hardly_ever_idle(collective: str) -> None:
    """The public claim to meet is four fifths of what the links of a node carry."""
    program = clockstep.collective(collective, bytes=2**20)
    assert clockstep.verify(program).ok
    assert program.cycles * 0.9 < program.info["lower_bound_cycles"] <= program.cycles


def test_a_small_sum_is_three_hops() -> None:
    """Published: 2.1 us for 256 chips, three hops; here four nodes, which are as far apart."""
    program = clockstep.collective("all-reduce", bytes=2048, chips=32)
    assert program.info["algorithm"] == "hierarchical"
    assert program.seconds < 2.1e-6
    x = np.random.default_rng(0).integers(-9, 9, program.inputs[0].shape).astype(np.float16)
    assert np.array_equal(ran(program, x), expected("all-reduce", x, 32))


def test_same_request_same_program() -> None:
    made = [clockstep.collective("all-reduce", bytes=999, machine="tiny") for _ in range(2)]
    for a, b in zip(*(p.code.sorted().args for p in made), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "all-sum"}, "no collective 'all-sum'"),
        ({"algorithm": "magic"}, "no algorithm 'magic' for all-reduce"),
        ({"chips": 1}, "a collective takes 2 to 52"),
        ({"chips": 53}, "a collective takes 2 to 52"),
        ({"bytes": 0}, "has at least one"),
        ({"type": "f8"}, "is not one of"),
    ],
)
def test_requests_that_are_refused(options: dict[str, Any], message: str) -> None:
    wanted = {"name": "all-reduce", "bytes": 100, "chips": 4, "machine": "tiny", **options}
    with pytest.raises(clockstep.UsageError, match=message):
        clockstep.collective(wanted.pop("name"), **wanted)


def test_what_does_not_fit() -> None:
    with pytest.raises(clockstep.DoesNotFit, match="has no room for"):
        clockstep.collective("all-reduce", bytes=10**6, chips=4, machine="tiny")
    alone = load_machine("tiny", ["system.local_links=0", "system.global_links=0"])
    with pytest.raises(clockstep.DoesNotFit, match="a link that leads to it"):
        clockstep.collective("send", bytes=10, chips=4, machine=alone)
