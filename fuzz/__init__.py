"""Fuzzing: programs that nobody would write, models that nobody would train.

`python -m fuzz graphs` compiles random ONNX graphs (`case.py`) and compares both engines with a
reference; `operators.py` has one row for each operator, and to add one is to add a row.
`python -m fuzz bytes` lets atheris change files and listings, guided by coverage (`targets.py`).
`python -m fuzz hostile` tries every hostile value at every place of a program file.
"""
