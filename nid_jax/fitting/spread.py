"""Solving problems whose signals lie on several devices, of one process or of several."""

import functools
from typing import Any

import jax
from flax import nnx

from nid_jax import sharding
from nid_jax.coding import checks
from nid_jax.coding.problem import Problem
from nid_jax.coding.solution import Solution
from nid_jax.coding.solvers import Solver
from nid_jax.fields.model import map_axes


def solved(problem: Problem, solver: Solver, count: int = 0) -> tuple[Solution, Problem | None]:
    """`solver.solve`, and the problem as far as this process knows it.

    Signals that lie on several devices are solved in one program, in which experts are split as the
    mesh says; every process gets all of the solution. count: how many of the signals there are, the
    rest fills up the devices; 0: all.
    """
    mesh = _mesh((problem.measurements, problem.clouds, problem.signals))
    if mesh is None:
        return solver.solve(problem), problem
    count = count or len(jax.tree.leaves((problem.measurements, problem.clouds))[0])
    solution = _program(sharding.named(mesh), count)(*everywhere((solver, problem), mesh))
    return solution, None if mesh.is_multi_process else problem.of_signals(slice(count))


@functools.lru_cache(maxsize=16)
def _program(where, count):
    """Solves the first `count` signals of a problem, for whole solutions on every device."""

    def solve(solver: Solver, problem: Problem) -> Solution:
        return solver.solve(problem.of_signals(slice(count)))

    return jax.jit(solve, out_shardings=where)


def _mesh(rows):
    """The devices that signals lie on; None where that is one."""
    for row in jax.tree.leaves(rows):
        where = row.sharding if isinstance(row, jax.Array) and not checks.traced(row) else None
        if isinstance(where, jax.sharding.NamedSharding) and where.mesh.size > 1:
            return where.mesh
    return None


def everywhere(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """The tree on a mesh: experts of dictionaries split, what lies there as it does, the rest
    whole."""

    def one(node):
        if isinstance(node, nnx.Module):
            graphdef, state = nnx.split(node)
            layout = map_axes(lambda axes: sharding.named(mesh, *axes), state)
            return nnx.merge(graphdef, sharding.put(state, sharding.fitting(state, layout)))
        if _mesh(node) is not None:
            return node
        return sharding.put(node, sharding.named(mesh))

    return jax.tree.map(one, tree, is_leaf=lambda node: isinstance(node, nnx.Module))
