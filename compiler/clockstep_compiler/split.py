"""Cut expressions that one wave cannot run: too many ALUs, or operands in too many slices.

A part of the expression becomes a matrix of its own in the type it is computed in, and the rest
reads it. What can run is asked of the planner itself.
"""

from __future__ import annotations

from dataclasses import replace

from clockstep_compiler.expr import Acc, Expr, Leaf, Op, flatten, size, substituted
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.steps import Compute, Lowered, Step, Value
from clockstep_compiler.sums import fits, group_size, with_sum
from clockstep_isa.diagnostics import DoesNotFit
from clockstep_isa.table import Type

__all__ = ["fits_a_wave", "split"]


def split(plan: Floorplan, lowered: Lowered, cut: frozenset[int] = frozenset()) -> Lowered:
    """Every compute step of the result fits a wave; those whose results are `cut` are cut once.

    Raises `DoesNotFit` if the machine cannot run even a single operation.
    """
    values = list(lowered.values)
    steps: list[Step] = []
    for step in lowered.steps:
        if isinstance(step, Compute):
            steps += _split(plan, step, values, step.out.number in cut)
        else:
            steps.append(step)
    return replace(lowered, steps=tuple(steps), values=tuple(values))


def _split(plan: Floorplan, step: Compute, values: list[Value], cut: bool = False) -> list[Step]:
    if not cut and fits_a_wave(plan, step):
        return [step]
    part, head = _part(plan, step, len(values))
    if head is None:
        if cut:
            return [step]
        raise DoesNotFit(
            "machine-too-small",
            f"no wave of this machine runs {_name(step.expr)} for {step.out.name!r}",
            help="give it more slices, streams or ALUs",
        )
    values.append(head.out)
    rest = Leaf(head.out, None)
    tail = replace(step, expr=substituted(step.expr, lambda e: rest if e is part else None))
    return [head, *_split(plan, tail, values)]


def _name(expr: Expr) -> str:
    return expr.name if isinstance(expr, Op) else "a product"


def _part(plan: Floorplan, step: Compute, number: int) -> tuple[Expr, Compute | None]:
    """The largest proper part that fits a wave and that nothing else looks into.

    Of equal parts the first in the order of evaluation; a product alone counts as a part.
    """
    users: dict[int, list[Expr]] = {}
    order: list[Expr] = []

    def visit(e: Expr) -> None:
        if id(e) in users or not isinstance(e, Op | Acc):
            return
        users[id(e)] = []
        if isinstance(e, Op):
            for arg in e.args:
                visit(arg)
                users.setdefault(id(arg), []).append(e)
        order.append(e)

    visit(step.expr)
    for part in sorted(order[:-1], key=lambda e: -size(e)):
        inside = _inside(part)
        closed = all(
            id(user) in inside for e in inside.values() if e is not part for user in users[id(e)]
        )
        if not closed:
            continue
        out = replace(step.out, number=number, name=f"{step.out.name}.part", type=part.out)
        head = Compute(out, part, step.nodes, step.shape)
        if fits_a_wave(plan, head):
            return part, head
    return step.expr, None


def _inside(part: Expr) -> dict[int, Expr]:
    """Every operation and product of a part, itself included."""
    found: dict[int, Expr] = {}

    def visit(e: Expr) -> None:
        if isinstance(e, Op | Acc) and id(e) not in found:
            found[id(e)] = e
            if isinstance(e, Op):
                for arg in e.args:
                    visit(arg)

    visit(part)
    return found


def fits_a_wave(plan: Floorplan, step: Compute) -> bool:
    """Whether a wave exists wherever the operands happen to lie, and slices for all of them."""
    program, sources = flatten(step.expr)
    kind, members = Type.I8, 0
    blocks = [step.out.type.bytes]
    position = next((i for i, s in enumerate(sources) if isinstance(s, Acc)), None)
    if position is not None:
        source = sources[position]
        assert isinstance(source, Acc)
        kind = source.product.type
        members = group_size(plan, kind)
        program = with_sum(program, position, members + 1)
        blocks += members * [kind.bytes]
    blocks += [leaf.bytes for leaf in program.leaves[members:]]
    return fits(plan, program, members, kind, tuple(blocks))
