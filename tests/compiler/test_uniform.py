"""Weights that are absent take no memory once they are lowered."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clockstep_compiler import Options
from clockstep_compiler.partition import find_product
from clockstep_compiler.problems import lowered_model
from clockstep_compiler.steps import Compute
from clockstep_compiler.uniform import is_uniform
from clockstep_isa import load_machine
from samples.llama.write import SIZES, llama

_WIDE = replace(SIZES["tiny"], layers=1, hidden=2048, ffn=4096, heads=2, kv_heads=1, vocab=640)


@pytest.mark.parametrize("weights", ["float32", "float16"])
def test_absent_weights_take_no_memory(weights: str) -> None:
    model = llama(_WIDE, context=8, weights=weights, drawn=False).SerializeToString()
    _, lowered = lowered_model(model, Options(weights=False), load_machine("lpu-v1"))
    products = [find_product(s.expr) for s in lowered.steps if isinstance(s, Compute)]
    terms = [term for product in products if product is not None for term in product.terms]
    large = [t.weights.data for t in terms if t.weights.depth * t.weights.columns >= 2**20]
    assert (
        len([data for data in large if data is not None]) >= 8
    )  # those of a layer, the tables before and after
    assert all(data is None or is_uniform(data) for data in large)
    assert lowered.weight_bytes >= 2 * 2048 * (2 * 2048 + 2 * 1024 + 3 * 4096)
