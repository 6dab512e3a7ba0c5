"""What ranks share, and how."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.builder import Net
from clockstep_compiler import Options
from clockstep_compiler.frontend import survey
from clockstep_compiler.placements import PARTIAL
from clockstep_compiler.shard import share
from tests.support.machines import MACHINES


def dequantized(net: Net, depth: int, columns: int) -> str:
    """Weights of a byte with one scale."""
    rng = np.random.default_rng(depth)
    codes = net.constant(rng.integers(-127, 128, (depth, columns)), dtype="int8")
    return net.op("DequantizeLinear", codes, net.constant(np.array(0.01)))


@pytest.mark.parametrize("exact", [False, True])
def test_sums_of_floats_may_be_in_parts(exact: bool) -> None:
    """Products of floats with weights of a byte are shared along the inner dimension, as sums of
    floats are; where both sides were dequantized, sums are exact and stay so."""
    net = Net("mlp")
    h = net.op("Relu", net.op("MatMul", net.input("x", (2, 64)), dequantized(net, 64, 256)))
    if exact:
        scale, zero = net.constant(np.array(0.1)), net.constant(np.array(0), dtype="int8")
        h = net.op("QuantizeLinear", h, scale, zero)
        h = net.op("DequantizeLinear", h, scale, zero)
    y = net.op("MatMul", h, dequantized(net, 256, 64))
    net.output(net.op("Relu", y), "y", (2, 64))
    graph = survey(net.model(), Options()).graph
    strategies = share(graph, MACHINES["tiny"], 4).strategies
    products = [s for n, s in zip(graph.nodes, strategies, strict=True) if n.op == "MatMul"]
    assert products[0].output == 1
    assert (products[1].output == PARTIAL) != exact
