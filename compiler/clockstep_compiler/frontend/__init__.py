"""The frontend: an ONNX model becomes a static `Graph`. The only package that imports `onnx`.

`importer` has the stages in order. To accept one more way of writing a model, add a rewrite to
`rewrites.REWRITES`; to support an operator, add a row to `clockstep_compiler.operators`.
"""

from __future__ import annotations

from clockstep_compiler.frontend.cut import CUT, cut_model
from clockstep_compiler.frontend.importer import Survey, import_model, survey
from clockstep_compiler.frontend.load import Model, parse
from clockstep_compiler.frontend.parameters import parameters_of
from clockstep_compiler.frontend.unsupported import unsupported_nodes

__all__ = [
    "CUT",
    "Model",
    "Survey",
    "cut_model",
    "import_model",
    "parameters_of",
    "parse",
    "survey",
    "unsupported_nodes",
]
