"""Mutation testing: programs changed a little, to see whether verifier and engines agree on them.

A *field* mutant has one field of one instruction changed, a *structural* one something larger: an
instruction moved, removed, doubled or split, a tensor that lies elsewhere, another promise. A
*chain* is some changes that leave a legal program, and one more. `corpus.py` has the programs,
`fields.py`, `structure.py` and `chain.py` the changes, `judge.py` the one verdict, `campaign.py`
runs many, `weaken.py` spoils verifier and engines to see that it is noticed, `__main__.py` is
`make mutate`. To add a program, add a row to `corpus.PROGRAMS`; to add a
change, one to `structure.CHANGES`.

Verdicts:
- refused: the reference interpreter faults, and the verifier reports that very fault (code, chip,
  unit, cycle);
- harmless: the verifier accepts, and the mutant computes what the original does;
- equal: the verifier accepts, the outputs are others than the original's, and every engine
  computes the same ones, to the bit, in the same cycles;
- disagreement: anything else. A fault that the verifier overlooks, a refusal of a program that
  runs, different bits, different cycles, an exception.
"""

from __future__ import annotations

__all__: list[str] = []
