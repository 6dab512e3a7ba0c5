"""Channels last: the graph rewritten so that images lie in memory as the array wants them.

ONNX puts channels before the spatial axes. The array wants a vector of channels for each pixel, so
convolutions and poolings are rewritten to images [N, spatial..., C], and everything that works
element by element follows: between two of them nothing is moved. Where another operator needs
ONNX's order, a Move brings it back; moves that are there already take that in.

A tensor's `twin` is the same tensor with channels last. What follows its input into that order is
in `channel_rules.py`: add an operator there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.graph import CLOCKSTEP, Graph, Node, Tensor

__all__ = ["RENAMING", "Layout", "Rule", "channels_last", "order"]

RENAMING = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
"""The same elements, in the same order, under another shape."""


def order(rank: int) -> tuple[int, ...]:
    """ONNX's axes in the order in which a twin has them."""
    return (0, *range(2, rank), 1) if rank > 2 else tuple(range(rank))


Rule = Callable[["Layout", Node], bool]
"""Rewrites a node, or returns False to leave it in ONNX's order."""


class Layout:
    """The graph as it is rewritten; rules emit nodes and say which order their results have.

    `views` says of every twin which tensor it is, with its axes in which order.
    """

    def __init__(self, graph: Graph, pulled: Mapping[str, Rule]) -> None:
        self.graph = graph
        self._pulled = pulled
        self._makers: dict[str, Node] = {}
        self._uses = Counter(name for node in graph.nodes for name in node.inputs)
        self._uses.update(graph.outputs)
        self.nodes: list[Node] = []
        self.tensors: dict[str, Tensor] = dict(graph.tensors)
        self.constants: dict[str, NDArray[np.generic]] = dict(graph.constants)
        self.views: dict[str, tuple[Tensor, tuple[int, ...]]] = {}
        self._twins: dict[str, str] = {}
        self._plain = {*graph.inputs, *graph.constants}
        self._moves: dict[str, Node] = {}
        self._origins: dict[str, tuple[str, NDArray[np.int64]]] = {}
        self._titles = Counter(node.name for node in graph.nodes)

    # -- reading ------------------------------------------------------------------------------

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def is_image(self, name: str) -> bool:
        """Whether a tensor exists with channels last only."""
        return name in self._twins and name not in self._plain

    def origin(self, name: str) -> tuple[str, NDArray[np.int64]] | None:
        """The one tensor whose elements, moved or as they are, make up another, and their places.

        None if the tensor, or its twin, is made in another way.
        """
        found, maker = self._origins.get(self._twins.get(name, name)), self._makers.get(name)
        if found is None and maker is not None and maker.op in RENAMING:
            inner = self.origin(maker.inputs[0])
            found = inner and (inner[0], inner[1].reshape(self.shape(name)))
        return found

    def plain(self, name: str) -> str:
        """The tensor in ONNX's order, brought there now if need be."""
        if name and self.is_image(name):
            twin = self._twins[name]
            index = self._places(name)
            self.move(self.tensors[name], (twin,), index)
        return name

    def twin(self, name: str) -> str:
        """The tensor with channels last, brought there now if need be.

        What nobody else reads is computed in that order from the twins of what it is made of.
        """
        maker = self._makers.get(name)
        pull = self._pulled.get(maker.op) if maker is not None and self._uses[name] == 1 else None
        if name not in self._twins and pull is not None and maker is not None:
            pull(self, maker)
        if name not in self._twins:
            made = self.new_twin(name)
            axes = order(len(self.shape(name)))
            if name in self.constants:
                self.constants[made.name] = np.ascontiguousarray(
                    self.constants[name].transpose(axes)
                )
            else:
                index = np.arange(self._size(name)).reshape(self.shape(name)).transpose(axes)
                self.move(made, (name,), index)
        return self._twins[name]

    def _places(self, name: str) -> NDArray[np.int64]:
        """Where the elements of a tensor are in its twin."""
        shape = self.shape(name)
        axes = order(len(shape))
        twin = np.arange(self._size(name)).reshape([shape[a] for a in axes])
        return twin.transpose(np.argsort(axes))

    # -- writing ------------------------------------------------------------------------------

    def new_twin(self, name: str) -> Tensor:
        """The type of the twin of a tensor that a rule is about to make."""
        tensor = self.tensors[name]
        axes = order(len(tensor.shape))
        made = self.new_tensor(f"{name}.last", tuple(tensor.shape[a] for a in axes), tensor.dtype)
        self._twins[name] = made.name
        self.views[made.name] = (tensor, axes)
        return made

    def new_tensor(self, name: str, shape: tuple[int, ...], dtype: str) -> Tensor:
        """A tensor of a name like `name` that nobody has."""
        while name in self.tensors:
            name += "_"
        self.tensors[name] = Tensor(name, shape, dtype)
        return self.tensors[name]

    def new_constant(self, name: str, array: NDArray[np.generic], dtype: str) -> str:
        """A constant under a name like `name`."""
        made = self.new_tensor(name, array.shape, dtype).name
        self.constants[made] = array
        self._plain.add(made)
        return made

    def emit(self, node: Node) -> None:
        """A node whose inputs and outputs are names as they are to be."""
        self.nodes.append(node)
        self._plain.update(n for n in node.outputs if n in self.graph.tensors)
        if (node.domain, node.op) == (CLOCKSTEP, "Move"):
            self._moves[node.outputs[0]] = node

    def keep(self, node: Node) -> None:
        """A node in ONNX's order."""
        self._makers.update((name, node) for name in node.outputs)
        self.emit(replace(node, inputs=tuple(self.plain(n) for n in node.inputs)))

    def take_in(self, node: Node, index: NDArray[np.int64], fill: Any) -> None:
        """A move of elements, out of twins where there is nothing else.

        Of the two orders that its result can have, the one that keeps more elements together.
        """
        names, index = self._taken(node.inputs, index)
        target = self.tensors[node.outputs[0]]
        axes = order(len(target.shape))
        last = index.transpose(axes)
        if _in_order(index) or _steadiness(index) > _steadiness(last):
            self.move(target, names, index, node, fill)
        else:
            self.move(self.new_twin(target.name), names, last, node, fill)

    def _taken(
        self, inputs: tuple[str, ...], index: NDArray[np.int64]
    ) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """The sources of a move as they exist, and where its elements are in them."""
        places, first = [], 0
        for name in inputs:
            own = self._places(name).ravel() if self.is_image(name) else np.arange(self._size(name))
            places.append(own + first)
            first += len(own)
        names = tuple(self._twins[name] if self.is_image(name) else name for name in inputs)
        return names, np.append(np.concatenate(places), -1)[index]  # -1 stays -1

    def move(
        self,
        target: Tensor,
        sources: tuple[str, ...],
        index: NDArray[np.int64],
        node: Node | None = None,
        fill: Any = 0,
    ) -> None:
        """Elements moved; in order but in another shape they are reshaped.

        `node` is the one that this does the work of; without, it is but a change of layout.
        """
        inner = self._moves.get(sources[0]) if len(sources) == 1 and (index >= 0).all() else None
        if inner is not None:
            sources, fill = inner.inputs, inner.attributes["fill"]
            index = inner.attributes["index"].ravel()[index]
        if len(sources) == 1 and (index >= 0).all():
            self._origins[target.name] = sources[0], index
        op, opset = ("Transpose", 0) if node is None else node.origin[1:]
        title = self.title(f"{target.name}.layout") if node is None else node.name
        outputs = (target.name,)
        if len(sources) == 1 and index.size == self._size(sources[0]) and _in_order(index):
            self.emit(Node(title, "Reshape", "", opset, sources, outputs, {}))
        else:
            attributes = {"fill": fill, "index": index, "op": op, "opset": opset}
            self.emit(Node(title, "Move", CLOCKSTEP, 1, sources, outputs, attributes))

    def _size(self, name: str) -> int:
        return int(np.prod(self.shape(name), dtype=np.int64))

    def title(self, name: str) -> str:
        """A name like `name` that no node has."""
        while name in self._titles:
            name += "_"
        self._titles[name] = 1
        return name


def _in_order(index: NDArray[np.int64]) -> bool:
    return bool((index.ravel() == np.arange(index.size)).all())


def _steadiness(index: NDArray[np.int64]) -> float:
    """How many neighbours in a row were neighbours before."""
    return float((np.diff(index, axis=-1) == 1).mean()) if index.shape[-1] > 1 else 0.0


def channels_last(graph: Graph, rules: Mapping[str, Rule], pulled: Mapping[str, Rule]) -> Graph:
    """The same graph with images in channels-last order; one without images is unchanged.

    `rules` rewrite operators as they come; `pulled` those whose result is wanted channels last.
    """
    state = Layout(graph, pulled)
    for node in graph.nodes:
        rule = rules.get(node.op) if node.domain in ("", "ai.onnx", CLOCKSTEP) else None
        if rule is None or not rule(state, node):
            state.keep(node)
    return _assembled(state) if state.views else graph


def _assembled(state: Layout) -> Graph:
    """What the outputs need; an output that is an image is fetched in that order."""
    graph = state.graph
    outputs = tuple(state.twin(n) if state.is_image(n) else n for n in graph.outputs)
    needed, nodes = set(outputs), []
    for node in reversed(state.nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
            nodes.append(node)
    used = {*graph.inputs, *needed, *(n for node in nodes for n in node.outputs)}
    return replace(
        graph,
        outputs=outputs,
        tensors={n: t for n, t in state.tensors.items() if n in used},
        constants={n: c for n, c in state.constants.items() if n in used},
        nodes=tuple(reversed(nodes)),
        views={n: view for n, view in state.views.items() if n in used},
    )
