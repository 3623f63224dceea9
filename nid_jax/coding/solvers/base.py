"""What all solvers have in common."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import numpy as np

from nid_jax.coding import checks
from nid_jax.coding.gram import PRECISIONS, NormalEquations
from nid_jax.coding.orthonormal import OrthonormalEquations
from nid_jax.coding.problem import Problem
from nid_jax.coding.solution import Solution, troubles
from nid_jax.errors import ArgumentError


@dataclasses.dataclass(frozen=True)
class Solver:
    """A way to find codes. Subclasses are frozen dataclasses whose fields are its options.

    A solver is a pytree whose leaves are the fields that hold arrays; all else is part of its type.
    Class attributes say what it takes. A subclass has `name`, a method `_solve(problem)` that gives
    a `Solution`, and `_words(solution)` that gives what a person should know of it.
    """

    name: ClassVar[str]
    """As a config has it, fit.solver."""
    about: ClassVar[str] = ""
    """What it solves, in words that go on after a colon; '' says nothing."""
    sparse: ClassVar[bool] = False
    """Codes of exactly `top_k` experts, which has to be given."""
    dense_only: ClassVar[bool] = False
    """Codes of all experts; there is no `top_k`."""
    reads: ClassVar[str] = "measurements"
    """'measurements', or 'clouds': the part of a problem that it cannot do without."""
    needs_prior: ClassVar[bool] = False
    """Whether it solves under the prior of the training codes."""
    takes_prior: ClassVar[bool] = False
    """Whether it looks at that prior where there is one."""
    routed: ClassVar[bool] = False
    """Whether it always asks the router."""
    precisions: ClassVar[tuple[str, ...]] = PRECISIONS
    """Those that `precision` may be."""

    precision: str = dataclasses.field(default="float32", kw_only=True)
    """Of equations: 'float32', by a square root, or 'float64', the normal equations."""

    def _equations(self, problem: Problem) -> OrthonormalEquations | NormalEquations:
        """The problem's equations in this solver's precision."""
        return problem.equations(self.precision)

    def _descends(self, problem: Problem) -> bool:
        """Whether signals of weights of their own are solved together, by conjugate gradients: no
        normal equations of each are summed then, as 'float64' asks for."""
        return self.precision == PRECISIONS[0] and problem.own_weights()

    def _count(self, field: str, least: int, where: str = "") -> None:
        """Keep a field as an int; ArgumentError unless it is a whole number of `least` or more.

        where: for the message, of what."""
        object.__setattr__(self, field, checks.whole(field, getattr(self, field), least, where))

    def __init_subclass__(cls, **options: Any):
        """Every kind of solver is a pytree, also a user's own."""
        super().__init_subclass__(**options)
        jax.tree_util.register_pytree_with_keys(cls, _flattened, functools.partial(_restored, cls))

    @property
    def differentiable(self) -> bool:
        """Whether the derivative of codes is known. Where not, asking for one raises ValueError."""
        return False

    def solve(self, problem: Problem) -> Solution:
        """Codes of the problem's signals, with the dictionary frozen.

        Works under jit and vmap. Raises ArgumentError, naming the field of the problem or of the
        solver, for what does not fit together.
        """
        self.check(problem)
        if not self.differentiable:
            return self._solve(no_gradient(problem, self.name))
        if not checks.transforming():
            return self._solve(problem)
        return self._solve_implicitly(problem)

    def _solve(self, problem: Problem) -> Solution:
        """What `solve` gives, of a problem that was checked. Of every solver."""
        raise NotImplementedError

    def _words(self, solution: Solution) -> str:
        """What a person should know of a solution whose arrays are NumPy's. Of every solver."""
        raise NotImplementedError

    def _solve_implicitly(self, problem: Problem) -> Solution:
        """`_solve` with derivatives by the implicit function theorem. Of differentiable solvers."""
        raise NotImplementedError

    def describe(self, solution: Solution) -> str:
        """In words, what a person should know: what was chosen or raised, and why it stopped."""
        solution = jax.device_get(solution)
        return "; ".join([self._words(solution), *troubles(solution.result)])

    def check(self, problem: Problem) -> None:
        """Raise ArgumentError, naming the field of the problem, for what it lacks."""
        self.check_experts(problem.dictionary.num_experts)
        self._check_read(problem)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if np.ndim(value) != 1:
                continue
            count = len(getattr(problem, self.reads))
            if len(value) != count:
                allowed = f"a number, or one for each of the {count} signals solved at once"
                raise ArgumentError(field.name, f"an array {list(np.shape(value))}", allowed)
        if self.uses_router:
            problem.check_router()

    def check_experts(self, experts: int) -> None:
        """Raise ArgumentError unless a dictionary of so many experts can give such codes."""
        top_k = getattr(self, "top_k", 0)
        if top_k > experts:
            least = "1" if self.sparse else "0 (dense)"
            raise ArgumentError("top_k", top_k, f"{least} to {experts} experts")

    def _check_read(self, problem):
        if getattr(problem, self.reads) is None:
            wanted = {
                "measurements": f"[S, M, C], which {self.name} reads; surface and router do "
                "without where there are clouds",
                "clouds": f"points on surfaces and their normals, which {self.name} reads",
            }
            raise ArgumentError(self.reads, None, wanted[self.reads])

    @property
    def router_field(self) -> str:
        """The name of a field that asks for the router, '' where none does."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        asking = (name for name, v in values.items() if isinstance(v, str) and v == "router")
        return next(asking, "")

    @property
    def uses_router(self) -> bool:
        """Whether the problem must have a router."""
        return self.routed or bool(self.router_field)


def _flattened(solver):
    """The arrays among a solver's fields by key, and (their names, all other fields)."""
    values = [(field.name, getattr(solver, field.name)) for field in dataclasses.fields(solver)]
    held = [(name, v) for name, v in values if isinstance(v, jax.Array | np.ndarray)]
    names = [name for name, _ in held]
    children = [(jax.tree_util.GetAttrKey(name), value) for name, value in held]
    fixed = tuple((name, value) for name, value in values if name not in names)
    return children, (tuple(names), fixed)


def _restored(cls, aside, children):
    """The solver that `_flattened` took apart; unchecked, as leaves need not be arrays."""
    names, fixed = aside
    solver = object.__new__(cls)
    for name, value in (*fixed, *zip(names, children, strict=True)):
        object.__setattr__(solver, name, value)
    return solver


def no_gradient(tree: Any, name: str) -> Any:
    """The tree unchanged; a derivative through it raises ValueError naming the solver.

    Codes of which no derivative is known would otherwise look constant.
    """

    @jax.custom_jvp
    def identity(leaf):
        return leaf

    @identity.defjvp
    def refuse(primals, tangents):
        raise ValueError(
            f"{name}: no derivative of its codes is known; hold them by jax.lax.stop_gradient of "
            "what it is given, or solve with ridge, gaussian (one prior for all) or omp"
        )

    def guarded(leaf):
        return identity(leaf) if isinstance(leaf, jax.core.Tracer) else leaf

    return jax.tree.map(guarded, tree)
