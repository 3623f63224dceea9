"""The arrays of a prior as files hold them, by name, and what is wrong with those of a file."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from nid_jax.coding.drawing import Level
from nid_jax.coding.mixture import Mixture
from nid_jax.coding.prior import GaussianPrior

FORMS = ("gaussian", "mixture")
"""What a file says that its prior is."""
AXES = {
    "mean": "N",
    "factor": "NR",
    "diagonal": "N",
    "noise": "",
    "shrinkage": "",
    "codes": "SE",
    "level.mean": "C",
    "level.slope": "NC",
    "level.factor": "CC",
    "mixture.weights": "K",
    "mixture.mean": "N",
    "mixture.basis": "NQ",
    "mixture.offsets": "KQ",
    "mixture.factors": "KQD",
    "mixture.common": "NU",
}
"""Every array's axes, a letter each: axes of one letter are of one length."""
_BASIS = "mixture.basis"
_PARTS: dict[str, Any] = {"level": Level, "mixture": Mixture}
OPTIONAL = tuple(name for name in AXES if name == "codes" or "." in name)
"""What a prior may lack."""


def form_of(prior: GaussianPrior) -> str:
    """One of FORMS."""
    return FORMS[prior.mixture is not None]


def prior_of(form: Any, found: Mapping[str, np.ndarray], prefix: str = "") -> GaussianPrior:
    """The prior of a file's arrays, by their names without the prefix.

    prefix: of names in messages. Raises ValueError, naming an array, for one that is missing, of
    another shape or type, and for a form that is not understood.
    """
    if form not in FORMS:
        raise ValueError(f"its prior has the form {form!r}; allowed: {', '.join(FORMS)}")
    parts = [name for name in _PARTS if any(key.startswith(f"{name}.") for key in found)]
    if ("mixture" in parts) != (form == "mixture"):
        raise ValueError(f"damaged: its prior has the form {form!r}, its arrays another")
    if form == "mixture" and _BASIS not in found:
        found = {**found, **_identity(found)}
    wanted = [name for name in AXES if name not in OPTIONAL or name.partition(".")[0] in parts]
    missing = sorted(set(wanted) - set(found))
    if missing:
        raise ValueError(f"{prefix}{missing[0]} is missing")
    _check_shapes(found, prefix)
    _check_values(found, prefix)
    values = {name: jnp.asarray(value) for name, value in found.items()}
    if "mixture" in parts:
        values["mixture.rows"] = values.pop("mixture.factors").swapaxes(1, 2)
    fields: dict[str, Any] = {name: one for name, one in values.items() if "." not in name}
    for name in parts:
        kind = _PARTS[name]
        fields[name] = kind(**{field: values[f"{name}.{field}"] for field in kind._fields})
    return GaussianPrior(**fields)


def _identity(found):
    """The basis that a file left out, which is that of the leading coordinates; {} where these are
    not known: what else is missing is named then."""
    mean, offsets = found.get("mixture.mean"), found.get("mixture.offsets")
    sizes = [array.shape[-1] for array in (mean, offsets) if array is not None and array.ndim]
    if len(sizes) < 2 or sizes[0] < sizes[1]:
        return {}
    return {_BASIS: np.eye(*sizes, dtype=np.float32)}


def _check_shapes(found, prefix):
    lengths: dict[str, int] = {}
    for name in _ordered(found):
        array, axes = found[name], AXES[name]
        shown = f"{array.dtype}{list(array.shape)}"
        if array.dtype != np.float32 or array.ndim != len(axes):
            raise ValueError(f"{prefix}{name} is {shown}; allowed: float32 of {len(axes)} axes")
        wanted = [lengths.setdefault(*pair) for pair in zip(axes, array.shape, strict=True)]
        if list(array.shape) != wanted:
            raise ValueError(f"{prefix}{name} is {shown}; allowed: float32{wanted}")


# What more is asked of an array than finite numbers.
_SIGNS: dict[str, tuple[Callable[[np.ndarray], Any], str]] = {
    "diagonal": (lambda a: (a >= 0).all(), "0 or more"),
    "noise": (lambda a: a >= 0, "0 or more"),
    "shrinkage": (lambda a: 0 <= a <= 1, "0 to 1"),
    "mixture.weights": (lambda a: (a >= 0).all() and a.any(), "0 or more, not all of them 0"),
}


# Solvers take squares of it, in float32.
_MOST = float(np.sqrt(np.finfo(np.float32).max)) / 2


def _check_values(found, prefix):
    for name in _ordered(found):
        if not np.isfinite(found[name]).all():
            raise ValueError(f"{prefix}{name} holds NaN or infinity; allowed: finite numbers")
        if (largest := np.abs(found[name]).max(initial=0)) > _MOST:
            raise ValueError(f"{prefix}{name} holds {largest:.2g}; allowed: at most {_MOST:.2g}")
        holds, allowed = _SIGNS.get(name, (None, ""))
        if holds is not None and not holds(found[name]):
            raise ValueError(f"{prefix}{name} holds {found[name].min():g}; allowed: {allowed}")


def check_sizes(
    found: Mapping[str, np.ndarray], experts: int, channels: int, prefix: str = ""
) -> None:
    """Raise ValueError, naming an array, where the arrays are not of so many experts."""
    for name, axis, sizes in (
        ("mean", 0, (experts, experts + channels)),
        ("codes", 1, (experts,)),
        ("level.mean", 0, (channels,)),
    ):
        array = found.get(name)
        if array is not None and (array.ndim <= axis or array.shape[axis] not in sizes):
            shown = f"{array.dtype}{list(array.shape)}"
            wanted = " or ".join(map(str, sizes))
            raise ValueError(f"{prefix}{name} is {shown}, its config asks for {wanted}")


def _ordered(found: Iterable[str]) -> list[str]:
    """Names as AXES has them: the mean first, which says how many coefficients there are."""
    return [name for name in AXES if name in found]
