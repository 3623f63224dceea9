"""Where the codes of a training step come from: train.codes.

joint          the router's codes, trained with the dictionary (the paper's way)
varpro         ridge codes of the batch, solved inside the step and held fixed (variable projection)
sparse_varpro  the same on supports of K experts chosen by matching pursuit
surface        joint, of signed distances of which only oriented points on surfaces are known

What the gradient makes of solved codes: train.differentiate.

envelope       holds them fixed. At the minimum over codes the objective's derivative through the
               codes is zero, so its total derivative with respect to the dictionary is the partial
               one (the envelope theorem; Golub & Pereyra 1973, Kaufman 1975). Exactly so where the
               training loss is what the solve minimises: mean squared error + lam v |code|^2 with
               v the atoms' mean variance. The loss has no such term, and leaves out what moving
               codes contribute: a part of order lam for `loss.data=l2`, any part for other losses.
solve          differentiates them through the closed form (`coding.implicit`): the gradient of the
               loss as it stands, whatever it is, at the price of a second solve and rendering.
"""

import dataclasses
import difflib
from typing import Any

import jax
import jax.numpy as jnp

from nid_jax import errors, numerics
from nid_jax.coding import checks, greedy, implicit, ridge
from nid_jax.fields.routing import Gates
from nid_jax.metrics.images import psnr_from_mse
from nid_jax.training import losses


@dataclasses.dataclass(frozen=True)
class Joint:
    """Codes from the router, in the same graph as the dictionary. Wang et al. 2022, equation 7."""

    objective: Any

    def prepare(self, model, batch, seen):
        """Max-norm of the codebook's rows, before the gradient, as the official code has it."""
        model.router.prepare(batch["ids"])

    def loss(self, model, prepared, batch, seen, dense, key):
        """-> (loss, (terms, mean |code| [E]))."""
        gates = model.gates(batch["ids"], looked_at(model.router, batch), dense=dense, key=key)
        loss, terms = _objective(self.objective, model.dictionary, seen, gates)
        return loss, (terms, _used(gates))


@dataclasses.dataclass(frozen=True)
class Projected:
    """Codes solved for the dictionary as it stands; the gradient reaches the dictionary alone.

    lam: regularisation of the solve (`coding.ridge`); top_k: 0, or the size of the supports;
    atoms_per_step: of the pursuit; differentiate: one of `DIFFERENTIATE`, see the module's text. A
    router that cannot be any affine map learns to predict the solved codes; one that can is found
    afterwards (`training.predicting`).
    """

    objective: Any
    lam: float
    top_k: int = 0
    atoms_per_step: int = 1
    differentiate: str = "envelope"

    def __post_init__(self):
        checks.positive("lam", self.lam)
        checks.whole("top_k", self.top_k, 0)
        checks.whole("atoms_per_step", self.atoms_per_step, 1)
        checks.one_of("differentiate", self.differentiate, DIFFERENTIATE)

    def prepare(self, model, batch, seen):
        """Solve the batch. -> (Gates, NormalEquations or None), constants to the gradient."""

        def solve(equations):
            return project(equations, self.lam, self.top_k, self.atoms_per_step)

        gates, equations = seen.solved(model.dictionary, solve)
        return jax.lax.stop_gradient((gates, equations))

    def loss(self, model, prepared, batch, seen, dense, key):
        """-> (loss, (terms, mean |code| [E]))."""
        gates, equations = prepared
        if self.differentiate == "solve":
            gates = self._moving(model.dictionary, seen, gates, equations)
        loss, terms = _objective(self.objective, model.dictionary, seen, gates)
        if model.router is not None and not model.router.affine:
            held = jax.lax.stop_gradient(gates)
            amortised = self._amortisation(model, held, equations, batch)
            loss = loss + amortised
            terms["router"] = jax.lax.stop_gradient(amortised)
        return loss, (terms, _used(gates))

    def _moving(self, dictionary, seen, gates, equations):
        """The same codes with their derivative through the closed form."""
        measured = dictionary, seen.operator, seen.targets, seen.weights
        if not self.top_k:
            found = implicit.ridge_codes(*measured, self.lam, equations=equations)
            return Gates(found.codes, None, None, found.bias)
        # An experts' place without a weight was left empty.
        places = jnp.where(gates.weights != 0, gates.indices, -1)
        found = implicit.support_codes(*measured, places, self.lam, equations=equations)
        weights = jnp.take_along_axis(found.codes, gates.indices, -1)
        return Gates(found.codes, gates.indices, weights * (places >= 0), found.bias)

    def _amortisation(self, model, gates, equations, batch):
        """How far the router's codes are from the solved ones.

        By what the difference would render: its mean square over the batch's points, plus that of
        the biases. Atoms of a trunk are nearly dependent, and most of the difference between two
        codes of one signal is invisible. Of K-sparse codes the difference itself is what tells
        supports apart, so it counts too, weighed by the energy of each atom.
        """
        predicted = model.router.gates(None, looked_at(model.router, batch), top_k=None)
        count = equations.count * gates.bias.shape[-1]
        difference = predicted.values - gates.values
        rendered = (difference * equations.apply(difference)).sum(-1) / count
        if self.top_k:
            energy = jnp.diagonal(equations.gram) / count
            rendered = rendered + numerics.einsum("se,e->s", jnp.square(difference), energy)
        mean = equations.bias(predicted.values) - equations.bias(gates.values)
        level = jnp.square(predicted.bias - gates.bias - mean).mean(-1)
        return (rendered + level).mean()


@dataclasses.dataclass(frozen=True)
class Surface:
    """Codes from the router, signed distances from oriented clouds; no distance is given.

    Each signal is seen at its own points, where it is to be zero with its gradient along the
    normal, and at the batch's points, which are off the surface. weights: of the terms of
    `losses.SurfaceTerms`, by name.
    Sitzmann et al. 2020, section 4.2; with one expert it is the official code's fit of one shape.
    """

    weights: Any

    def prepare(self, model, batch, seen):
        """Max-norm of the codebook's rows."""
        model.router.prepare(batch["ids"])

    def loss(self, model, prepared, batch, seen, dense, key):
        """-> (loss, (terms, mean |code| [E])). seen: samples off the surface."""
        gates = model.gates(batch["ids"], looked_at(model.router, batch), dense=dense, key=key)
        off, dims = seen.operator.points, model.dictionary.dims

        def one(cloud, row):
            row = jax.tree.map(lambda leaf: leaf[None], row)

            def value(x):
                return model.dictionary.combine(x, row)[0, :, 0]

            # A value depends on its own point alone: the gradient of the sum is every point's own.
            on, back = jax.vjp(value, cloud[:, :dims])
            return on, back(jnp.ones_like(on))[0], value(off)

        on, slopes, off_values = jax.vmap(one)(batch["clouds"], gates)
        terms = losses.surface_terms(on, slopes, batch["clouds"][..., dims:], off_values)
        loss = terms.total(self.weights)
        named = {"loss": loss, "psnr": psnr_from_mse(jnp.square(on).mean()), **terms._asdict()}
        return loss, (jax.lax.stop_gradient(named), _used(gates))


def _objective(objective, dictionary, seen, gates):
    """(loss, terms) of what codes render beside what was measured."""
    weights = None if seen.weights is None else seen.weights[..., None]
    return objective(seen.rendered(dictionary, gates), seen.targets, gates, weights)


def looked_at(router, batch):
    """What a router looks at: the batch's signals, or its clouds. Raises ValueError without."""
    if router.reads not in batch:
        raise ValueError(
            "router.kind: 'point' reads points on surfaces, which a batch of these signals lacks; "
            "allowed where signals are shapes, with train.cloud_points above 0"
        )
    return batch[router.reads]


def _used(gates):
    return jax.lax.stop_gradient(jnp.abs(gates.values).mean(0))


def project(equations, lam, top_k=0, atoms_per_step=1):
    """Codes of the normal equations as gates: ridge over all experts, or over K chosen ones.

    lam: as `coding.ridge`. -> Gates, without gradient.
    """
    if not top_k:
        codes = ridge.solve_dense(equations, lam).codes
        return Gates(codes, None, None, equations.bias(codes))
    chosen = greedy.omp_codes(equations, top_k, atoms_per_step=atoms_per_step)
    places = jnp.where(chosen.chosen, chosen.indices, -1)
    codes = ridge.solve_on_support(equations, places, lam)
    weights = jnp.take_along_axis(codes, chosen.indices, -1) * chosen.chosen
    return Gates(codes, chosen.indices, weights, equations.bias(codes))


CODES = ("joint", "varpro", "sparse_varpro", "surface")
DIFFERENTIATE = ("envelope", "solve")


def _surface_weights(config):
    """config.loss.surface, checked. Raises ValueError naming a key."""
    if "surface" not in config.loss:
        raise ValueError("train.codes: 'surface' is for shapes, such as configs/sdf.py has")
    return config.loss.surface.to_dict()


def build_strategy(config, objective):
    """The strategy of train.codes. Raises ValueError naming the key that does not fit."""
    codes, router, differentiate = config.train.codes, config.router, config.train.differentiate
    if codes not in CODES:
        near = difflib.get_close_matches(str(codes), CODES, 1, 0.0)[0]
        raise ValueError(
            f"train.codes: {codes!r} is unknown, did you mean {near!r}? allowed: {', '.join(CODES)}"
        )
    checks.one_of("train.differentiate", differentiate, DIFFERENTIATE)
    if codes in ("joint", "surface"):
        if differentiate == "solve":
            raise ValueError(
                f"train.differentiate: 'solve', but train.codes={codes} solves no codes; "
                "allowed: envelope, or train.codes=varpro, sparse_varpro"
            )
        if router.kind == "none":
            raise ValueError(
                f"router.kind: 'none' gives no codes to train; train.codes={codes} needs a router"
            )
        return Joint(objective) if codes == "joint" else Surface(_surface_weights(config))
    if router.kind == "codebook":
        raise ValueError(
            f"router.kind: a codebook stores codes, train.codes={codes} solves them; "
            "allowed: none, linear, conv, resnet, point"
        )
    with errors.named("train"):
        if codes == "varpro":
            return Projected(objective, config.train.lam, differentiate=differentiate)
        if not router.top_k:
            raise ValueError("router.top_k: 0 is dense; train.codes=sparse_varpro needs 1 or more")
        return Projected(
            objective, config.train.lam, router.top_k, config.train.atoms_per_step, differentiate
        )
