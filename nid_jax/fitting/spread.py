"""Solving problems whose signals lie on devices of several processes."""

from typing import Any

import jax
from flax import nnx

from nid_jax import sharding
from nid_jax.coding.problem import Problem
from nid_jax.coding.solution import Solution
from nid_jax.coding.solvers import Solver
from nid_jax.fields.model import map_axes


def solved(problem: Problem, solver: Solver) -> tuple[Solution, Problem | None]:
    """`solver.solve`, and the problem as far as this process knows it.

    Of signals that lie over several processes all of these solve in one program, in which the
    experts are split as the mesh says; each gets all of the solution, and none keeps the problem.
    """
    rows = jax.tree.leaves((problem.measurements, problem.clouds, problem.signals))
    far = [row for row in rows if not getattr(row, "is_fully_addressable", True)]
    if not far:
        return solver.solve(problem), problem
    mesh = far[0].sharding.mesh
    known = everywhere((solver, problem), mesh)
    program = jax.jit(
        lambda solver, problem: solver.solve(problem), out_shardings=sharding.named(mesh)
    )
    return program(*known), None


def everywhere(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """The tree on a mesh: experts of dictionaries split, signals as they lie, all else whole."""

    def one(node):
        if isinstance(node, nnx.Module):
            graphdef, state = nnx.split(node)
            layout = map_axes(lambda axes: sharding.named(mesh, *axes), state)
            return nnx.merge(graphdef, sharding.put(state, sharding.fitting(state, layout)))
        if not getattr(node, "is_fully_addressable", True):
            return node
        return sharding.put(node, sharding.named(mesh))

    return jax.tree.map(one, tree, is_leaf=lambda node: isinstance(node, nnx.Module))
