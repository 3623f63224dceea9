"""From the section `fit` of a config to a solver."""

import importlib

import pytest
from ml_collections import ConfigDict

from nid_jax import configs
from nid_jax.coding.solvers import (
    OMP,
    SOLVERS,
    Gaussian,
    Gradient,
    Ridge,
    RouterRidge,
    Surface,
    config_group,
    solver_from_config,
)

# Values that no field has of itself, by key.
GIVEN = {
    "ridge": {"lam": "1e-3", "per_signal": True},
    "gaussian": {"noise": 0.2, "neighbours": 7, "blend": 0.3},
    "lasso": {"fraction": 0.2, "weights_base": 0.9, "tolerance": 1e-4, "steps": 7},
    "omp": {"lam": 1e-3, "atoms_per_step": 2, "criterion": "gain"},
    "iht": {"steps": 7},
    "robust": {
        "loss": "huber",
        "lam": 1e-3,
        "use_prior": False,
        "delta": 0.1,
        "noise": 0.2,
        "steps": 7,
        "trim": 3.0,
        "reach": 0.2,
        "trim_noise": 0.1,
    },
    "router": {},
    "router+ridge": {"lam": 1e-3},
    "gradient": {
        "steps": 7,
        "learning_rate": 0.1,
        "init": "router",
        "variables": "router",
        "dense_steps": 3,
        "data": "l1",
    },
    "surface": {
        "on": 2.0,
        "normal": 0.1,
        "eikonal": 0.2,
        "off": 3.0,
        "method": "gradient",
        "init": "mean",
        "iterations": 3,
        "truncation": 0.2,
        "truncation_kind": "tanh",
    },
}


def section(name, top_k=None, **options):
    top_k = (3 if SOLVERS[name].sparse else 0) if top_k is None else top_k
    group = config_group(name).removeprefix("fit.")
    return ConfigDict({"solver": name, "top_k": top_k, group: options})


@pytest.mark.parametrize("name", SOLVERS)
def test_every_key_becomes_its_field(name):
    solver = solver_from_config(section(name, **GIVEN[name]))
    assert type(solver) is SOLVERS[name]
    for key, value in GIVEN[name].items():
        assert getattr(solver, key) == (1e-3 if value == "1e-3" else value)
        if name != "ridge":
            assert getattr(solver, key) != SOLVERS[name].__dataclass_fields__[key].default
    if SOLVERS[name].sparse:
        assert solver.top_k == 3


def shipped():
    """Every variant of every config, as an id and a config."""
    for name in configs.names():
        module = importlib.import_module(f"nid_jax.configs.{name}")
        for variant in module.VARIANTS:
            yield pytest.param(module.get_config, [variant], id=f"{name}:{variant}")


@pytest.mark.parametrize(("get_config", "arguments"), list(shipped()))
def test_all_shipped_configs_build_each_of_their_solvers(get_config, arguments):
    config = get_config(*arguments).fit
    assert solver_from_config(config).name == config.solver
    for name, kind in SOLVERS.items():
        group = config_group(name).removeprefix("fit.")
        if group in config:
            config.solver, config.top_k = name, 3 if kind.sparse else 0
            solver = solver_from_config(config)
            for key, value in config[group].items():
                assert str(getattr(solver, key)) == str(value) or float(value) == solver.lam


def test_words_and_numbers_as_text():
    assert solver_from_config(section("ridge", lam="gcv")) == Ridge("gcv")
    assert solver_from_config(section("ridge", lam="1e-4")) == Ridge(1e-4)
    assert solver_from_config(section("ridge", lam=1e-4)) == Ridge(1e-4)
    assert solver_from_config(section("gradient", top_k=5)) == Gradient(top_k=5)
    assert solver_from_config(section("omp", top_k=5)) == OMP(5)
    assert solver_from_config(ConfigDict({"solver": "gaussian", "top_k": 0})) == Gaussian()
    assert solver_from_config(section("router+ridge", top_k=5, lam=1e-4)) == RouterRidge(5, 1e-4)
    assert solver_from_config(section("surface")) == Surface()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ConfigDict({"solver": "rigde", "top_k": 0}), "'rigde' is unknown, did you mean 'ridge'?"),
        (ConfigDict({"solver": None, "top_k": 0}), "fit.solver: None is unknown"),
        (section("ridge", top_k=3), "fit.top_k: 3; allowed: 0 .*fit.solver=omp, iht, gradient"),
        (
            section("omp", top_k=0),
            "fit.top_k: 0; allowed: a whole number, 1 or more with fit.solver=",
        ),
        (section("gradient", top_k=-1), "fit.top_k: -1; allowed: a whole number, 0 or more"),
        (
            section("ridge", lam="some"),
            "fit.ridge.lam: 'some'; allowed: a number of 0 or more, 'gcv'",
        ),
        (section("ridge", lam=float("nan")), "fit.ridge.lam: nan"),
        (section("router+ridge", lam=-1.0), "fit.router_ridge.lam: -1.0"),
        (section("gradient", init="best"), "fit.gradient.init: 'best'; allowed: zero, router"),
        (section("robust", trim=0.5), "fit.robust.trim: 0.5; allowed: 0 .off., or 1 and more"),
        (section("ridge", lambda_=1.0), "fit.ridge.lambda_: 1.0; allowed: keys lam, per_signal"),
    ],
)
def test_errors_name_the_key(config, words):
    with pytest.raises(ValueError, match=words):
        solver_from_config(config)
