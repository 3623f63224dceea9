"""What a person imports says what it is and what it takes."""

import enum
import inspect
import pkgutil
import types

import pytest

import nid_jax
from nid_jax import data, metrics, operators, solvers, tasks

ROOMS = {"data": data, "metrics": metrics, "operators": operators, "solvers": solvers}
ROOMS["tasks"] = tasks
PUBLIC = {name: getattr(nid_jax, name) for name in nid_jax.__all__}
PUBLIC |= {
    f"{room}.{name}": getattr(module, name)
    for room, module in ROOMS.items()
    for name in module.__all__
}
CALLABLES = {name: thing for name, thing in PUBLIC.items() if callable(thing)}


def bare(call):
    """Parameters without annotation of something that is called; of a class, of its methods too."""
    if not inspect.isclass(call):
        return _bare_parameters(call)
    # Nobody makes an enumeration or a protocol.
    made = not (issubclass(call, enum.Enum) or getattr(call, "_is_protocol", False))
    found = _bare_parameters(call) if made else []
    for name, method in vars(call).items():
        if isinstance(method, classmethod | staticmethod):
            method = method.__func__
        if not name.startswith("_") and inspect.isfunction(method):
            inherited = any(hasattr(base, name) for base in call.__mro__[1:])
            found += [] if inherited else [f"{name}.{p}" for p in _bare_parameters(method)]
    return found


def _bare_parameters(call):
    parameters = inspect.signature(call).parameters.values()
    return [
        parameter.name
        for parameter in parameters
        if parameter.annotation is parameter.empty and parameter.name not in ("self", "cls", "_")
    ]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_says_what_it_is(name):
    if callable(PUBLIC[name]) or inspect.ismodule(PUBLIC[name]):
        assert inspect.getdoc(PUBLIC[name])


@pytest.mark.parametrize("name", CALLABLES)
def test_parameters_of_a_public_name_are_annotated(name):
    assert not bare(CALLABLES[name])


def test_a_parameter_without_annotation_is_found():
    class Example:
        def __init__(self, first, second: int):
            pass

        def method(self, third):
            pass

        @classmethod
        def made(cls, fourth):
            pass

    assert bare(Example) == ["first", "method.third", "made.fourth"]
    assert bare(lambda x: x) == ["x"]


def test_no_module_takes_the_place_of_what_it_is_named_for():
    """A package has its modules as attributes once they were imported, before its lazy names."""
    for module in pkgutil.iter_modules(data.__path__):
        assert module.name not in set(data.__all__) - {"survey"}
    for name in data.__all__:
        assert not isinstance(getattr(data, name), types.ModuleType), name
