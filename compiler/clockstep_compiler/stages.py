"""Stages: a model of many equal layers cut into graphs of their own, one after another.

Nodes are put in the order in which the results need them. What is alike from layer to layer then
has a period, which is cut where the fewest bytes cross; what comes before and after are stages too.

    embed A B A B A B head    becomes    [embed] [A B] [A B] [A B] [head]

Stages of one `form` have the same schedule: the same operators on tensors of the same shapes, wired
alike, with the same small constants. To let something else tell stages apart, add it to `_form`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.channel_rules import PULLED
from clockstep_compiler.channels import RENAMING
from clockstep_compiler.graph import Graph, Node, Tensor
from clockstep_compiler.lowering.wide import wide_tensors
from clockstep_compiler.options import Options

__all__ = ["Stage", "stages"]

_SMALL = 1024
"""Elements of integers up to which their values tell stages apart though weights are left out."""

_FLOAT, _HALF = 1, 10
"""ONNX's numbers of the types float32 and float16."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One part of the model; `form` is that of all stages with the same schedule.

    What comes from another stage has the same name in both graphs, and is no input of the model.
    """

    graph: Graph
    form: str


def stages(graph: Graph, options: Options, most: int, *, fine: bool = False) -> tuple[Stage, ...]:
    """The stages of a model in order, at most `most`; none if its layers are not alike.

    `fine`: they may begin within a layer, wherever no more bytes cross than at its ends.
    """
    nodes = _needed(graph)
    cuts = _cuts(graph, nodes, most, fine)
    if not cuts or any(name not in _made(nodes) for name in graph.outputs):
        return ()
    cutter = _Cutter(graph, nodes, options, [0, *cuts, len(nodes)])
    found = tuple(cutter.stages())
    whole = sum(len(stage.graph.states) for stage in found) == len(graph.states)
    return found if whole else ()


def _made(nodes: list[Node]) -> dict[str, int]:
    """Which node makes a tensor."""
    return {name: i for i, node in enumerate(nodes) for name in node.outputs if name}


def _needed(graph: Graph) -> list[Node]:
    """The nodes in the order in which the outputs, one after another, need them."""
    maker = _made(list(graph.nodes))
    found: list[Node] = []
    seen: set[int] = set()
    for output in graph.outputs:
        rest = [(maker[output], False)] if output in maker else []
        while rest:
            number, done = rest.pop()
            if done:
                found.append(graph.nodes[number])
            elif number not in seen:
                seen.add(number)
                rest.append((number, True))
                operands = [maker[n] for n in graph.nodes[number].inputs if n in maker]
                rest += [(operand, False) for operand in reversed(operands) if operand not in seen]
    return found


# -- where to cut ----------------------------------------------------------------------------


def _cuts(graph: Graph, nodes: list[Node], most: int, fine: bool) -> list[int]:
    """The numbers of the nodes that stages begin with, the first stage excepted."""
    kinds: dict[tuple[object, ...], int] = {}
    known: dict[int, str] = {}
    every = (_kind(graph, node, known) for node in nodes)
    alike = np.array([kinds.setdefault(kind, len(kinds)) for kind in every], np.int64)
    begin, period, length = _period(alike)
    if 2 * length < len(nodes) or length < 2 * period:
        return []
    bytes_cut = _crossing(graph, nodes)
    choice = min(range(begin, begin + period), key=lambda cut: (bytes_cut[cut], cut))
    cuts = list(range(choice, begin + length + 1, period))
    if fine:
        last = min(begin + length + 1, len(nodes))
        within = range(choice, min(choice + period, last))
        likewise = [cut - choice for cut in within if bytes_cut[cut] == bytes_cut[choice]]
        fewest = [cut for cut in range(choice, last) if (cut - choice) % period in likewise]
        return _level(fewest, most)
    return _fewer([cut for cut in cuts if 0 < cut < len(nodes)], most)


def _level(cuts: list[int], most: int) -> list[int]:
    """As many of the cuts as leave at most `most` stages: the longer ones first, which makes few
    forms; the first stage has nothing added to it, the last is two parts."""
    inner = most - 2
    if inner < 1 or len(cuts) - 2 <= inner:
        return cuts[:-1]
    each, longer = divmod(len(cuts) - 2, inner)
    ends = [number * each + min(number, longer) for number in range(inner + 1)]
    return [cuts[end] for end in ends]


def _fewer(cuts: list[int], most: int) -> list[int]:
    """As many of the cuts as leave at most `most` stages, evenly: the ends go first."""
    if len(cuts) + 1 > most:
        cuts = cuts[1:]
    if len(cuts) + 1 > most:
        cuts = cuts[:-1]
    every = -(-(len(cuts) + 1) // max(1, most))
    return cuts[every - 1 :: every]


def _kind(graph: Graph, node: Node, known: dict[int, str]) -> tuple[object, ...]:
    """What nodes of one kind have in common, whatever they are wired to."""
    shapes = tuple(_type(graph, name) for name in (*node.inputs, *node.outputs))
    return (node.op, node.domain, node.opset, _attributes(node, known), shapes)


def _type(graph: Graph, name: str) -> tuple[object, ...]:
    tensor = graph.tensors.get(name)
    constant = graph.constants.get(name)
    if constant is not None:
        return (str(constant.dtype), constant.shape, True)
    return (tensor.dtype, tensor.shape, False) if tensor is not None else ()


def _attributes(node: Node, known: dict[int, str]) -> tuple[tuple[str, str], ...]:
    return tuple((key, _text(value, known)) for key, value in sorted(node.attributes.items()))


def _text(value: Any, known: dict[int, str]) -> str:
    """A value as text; `known` are arrays by their identity, which moves have in common."""
    if not isinstance(value, np.ndarray):
        return repr(value)
    if id(value) not in known:
        known[id(value)] = _digest(value)
    return known[id(value)]


def _digest(array: NDArray[np.generic]) -> str:
    data = np.ascontiguousarray(array)
    return hashlib.sha256(data.view(np.uint8).data).hexdigest() if data.size else ""


def _period(alike: NDArray[np.int64]) -> tuple[int, int, int]:
    """(begin, period, length) of the longest stretch that repeats itself; the shortest period."""
    best = (0, 1, 0)
    for period in range(1, len(alike) // 2 + 1):
        if len(alike) <= best[2]:
            break
        same = np.concatenate([[False], alike[period:] == alike[:-period], [False]])
        edges = np.flatnonzero(np.diff(same.astype(np.int8)))
        if not len(edges):
            continue
        runs = edges[1::2] - edges[::2]
        longest = int(runs.argmax())
        if runs[longest] >= period and runs[longest] + period > best[2]:
            best = (int(edges[2 * longest]), period, int(runs[longest]) + period)
    return best


def _crossing(graph: Graph, nodes: list[Node]) -> NDArray[np.int64]:
    """Bytes of the tensors that are made before each node and read by it or later ones.

    Floats that must not be rounded where they are sent count as much as makes a cut the last
    choice.
    """
    change = np.zeros(len(nodes) + 1, np.int64)
    wide = wide_tensors(graph)
    maker, last = _made(nodes), _last_reads(nodes)
    for name, number in maker.items():
        if last.get(name, 0) > number:
            tensor = graph.tensors[name]
            size = 4 * int(np.prod(tensor.shape, dtype=np.int64)) << 20 * (name in wide)
            change[number + 1] += size
            change[last[name] + 1] -= size
    return np.cumsum(change)


def _last_reads(nodes: list[Node]) -> dict[str, int]:
    return {name: i for i, node in enumerate(nodes) for name in node.inputs if name}


_CHEAP = 1 << 20
"""Elements of a constant up to which nodes that read it are made again rather than sent."""

_FEW = 64
"""The same of an input of the model, such as the position."""


def _cheap(graph: Graph, nodes: list[Node]) -> frozenset[int]:
    """Nodes whose results are sooner made again than sent: masks, and rows of small tables."""
    states = {name for pair in graph.states for name in pair}
    free = {n for n, array in graph.constants.items() if array.size <= _CHEAP}
    free |= {n for n in graph.inputs if math.prod(graph.tensors[n].shape) <= _FEW} - states
    found: list[int] = []
    for number, node in enumerate(nodes):
        if node.op in _REPEATED and free.issuperset(filter(None, node.inputs)):
            found.append(number)
            free.update(set(node.outputs) - states - set(graph.outputs))
    return frozenset(found)


_REPEATED = frozenset((*PULLED, *RENAMING, "Move", "Take"))


# -- cutting ---------------------------------------------------------------------------------


class _Cutter:
    """Makes a graph of the nodes between every two neighbouring `ends`."""

    def __init__(self, graph: Graph, nodes: list[Node], options: Options, ends: list[int]) -> None:
        self._graph, self._nodes, self._ends = graph, nodes, ends
        self._maker, self._last = _made(nodes), _last_reads(nodes)
        self._weights, self._half = options.weights, options.precision != "exact"
        self._digests: dict[str, str] = {}
        self._known: dict[int, str] = {}
        self._cheap = _cheap(graph, nodes)

    def stages(self) -> Iterator[Stage]:
        """All stages, in order."""
        for begin, end in zip(self._ends[:-1], self._ends[1:], strict=True):
            graph = self._part(begin, end)
            yield Stage(graph, self._form(graph))

    def _part(self, begin: int, end: int) -> Graph:
        """The graph of some nodes: what they read of others are inputs, what others read outputs.

        Floats are sent as fp16, which is what they are kept in wherever they are stored. What is
        cheap is not sent, but made again.
        """
        whole, nodes = self._graph, self._again(begin, end)
        made = _made(nodes)
        read = dict.fromkeys(name for node in nodes for name in node.inputs if name)
        taken = [name for name in read if name not in made and name not in whole.constants]
        others = [name for name in made if self._last.get(name, 0) >= end]
        given = [name for name in others if self._maker[name] not in self._cheap]
        tensors = {name: whole.tensors[name] for name in (*read, *made)}
        inputs, outputs, before, after = [], [], [], []
        for name in taken:
            sent = self._sent(name) if name in self._maker else name
            if sent != name:
                before.append(_cast(nodes, sent, name, _FLOAT))
                tensors[sent] = _half(tensors[name], sent)
            inputs.append(sent)
        for name in [*given, *(name for name in made if name in whole.outputs)]:
            sent = self._sent(name) if name in given and name not in outputs else name
            if sent != name and sent not in outputs:
                after.append(_cast(nodes, name, sent, _HALF))
                tensors[sent] = _half(tensors[name], sent)
            if sent not in outputs:
                outputs.append(sent)
        for past, present in whole.states:
            if present in outputs and past not in self._last:
                inputs.append(past)  # nobody reads it, but what is made goes there
                tensors[past] = whole.tensors[past]
        return Graph(
            whole.name,
            tuple(inputs),
            tuple(outputs),
            tensors,
            {name: whole.constants[name] for name in read if name in whole.constants},
            (*before, *nodes, *after),
            whole.sha256,
            states=tuple(pair for pair in whole.states if pair[0] in inputs and pair[1] in outputs),
        )

    def _again(self, begin: int, end: int) -> list[Node]:
        """The nodes from `begin` to `end`, and cheap ones before them, just before what needs
        these: what all else waits for is scheduled first."""
        found: list[Node] = []
        seen: set[int] = set()

        def add(number: int) -> None:
            if number in seen:
                return
            seen.add(number)
            makers = {self._maker.get(name, begin) for name in self._nodes[number].inputs}
            for maker in sorted(makers):
                if maker < begin and maker in self._cheap:
                    add(maker)
            found.append(self._nodes[number])

        for number in range(begin, end):
            add(number)
        return found

    def _sent(self, name: str) -> str:
        """The name of a tensor on its way from one stage to another."""
        narrow = self._half and self._graph.tensors[name].dtype == "float32"
        return f"{name}/sent" if narrow else name

    def _form(self, graph: Graph) -> str:
        """A digest of all of a graph but names, and the values of large constants left out."""
        number: dict[str, int] = {}
        parts: list[object] = []
        for name in graph.inputs:
            parts.append((number.setdefault(name, len(number)), _type(graph, name)))
        for node in graph.nodes:
            for name in (*node.inputs, *node.outputs):
                if name and name not in number:
                    value = self._value(graph.constants.get(name), name)
                    parts.append((len(number), _type(graph, name), value))
                    number[name] = len(number)
            wires = [number.get(name, -1) for name in (*node.inputs, *node.outputs)]
            parts.append((node.op, node.domain, node.opset, _attributes(node, self._known), wires))
        parts.append([number[name] for name in graph.outputs])
        parts.append([(number[given], number[made]) for given, made in graph.states])
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def _value(self, constant: NDArray[np.generic] | None, name: str) -> str:
        if constant is None or (not self._weights and _is_weight(constant)):
            return ""
        if name not in self._digests:
            self._digests[name] = _digest(constant)
        return self._digests[name]


def _is_weight(constant: NDArray[np.generic]) -> bool:
    """Whether a constant is but data: its values do not decide what is computed, or how."""
    return constant.size > (_SMALL if constant.dtype.kind in "iub" else 1)


def _half(tensor: Tensor, name: str) -> Tensor:
    return Tensor(name, tensor.shape, "float16")


def _cast(nodes: list[Node], source: str, target: str, kind: int) -> Node:
    opset = max((node.opset for node in nodes if not node.domain), default=1)
    name = f"{target if kind == _HALF else source}/cast"
    attributes: Mapping[str, Any] = {"saturate": 1, "to": kind}
    return Node(name, "Cast", "", opset, (source,), (target,), attributes)
