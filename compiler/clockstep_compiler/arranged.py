"""The graph as the array wants it: which way tensors lie, and what moves where.

To add a rewriting of the graph that takes the machine into account, add it here.
"""

from __future__ import annotations

from clockstep_compiler.channel_rules import PULLED, RULES
from clockstep_compiler.channels import channels_last
from clockstep_compiler.cut_products import cut_products
from clockstep_compiler.graph import Graph
from clockstep_compiler.late_moves import late_moves
from clockstep_isa.machine import Machine

__all__ = ["arranged"]


def arranged(graph: Graph, machine: Machine) -> Graph:
    """Channels of images last, operands of products moved once, products cut before they are."""
    return cut_products(late_moves(channels_last(graph, RULES, PULLED)), machine.vector)
