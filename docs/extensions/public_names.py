"""`public-names` ROOM: all that a public package names, each with its signature and docstring."""

import importlib
import inspect

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList


class PublicNames(Directive):
    """Of the package that is its argument, but for what an `except` option lists."""

    required_arguments = 1
    option_spec = {"except": str.split, "only": str.split}

    def run(self) -> list[nodes.Node]:
        """Nodes of every name in the order of `__all__`."""
        room = _room(self.arguments[0])
        names = self.options.get("only", room.__all__)
        # The page is Markdown, in which what Sphinx has for Python stands inside of a fence.
        lines = ["````{eval-rst}"]
        for name in names:
            if name not in self.options.get("except", ()):
                lines += [*_lines(f"{self.arguments[0]}.{name}", getattr(room, name)), ""]
        lines.append("````")
        holder = nodes.container()
        self.state.nested_parse(StringList(lines, "public names"), 0, holder)
        return holder.children


def _room(path: str) -> object:
    """A package, also one that another has under a shorter name: nid_jax.operators."""
    first, *rest = path.split(".")
    room = importlib.import_module(first)
    for name in rest:
        room = getattr(room, name)
    return room


def _lines(name: str, thing: object) -> list[str]:
    if inspect.isclass(thing):
        return [f".. autoclass:: {name}", "   :members:"]
    if callable(thing):
        return [f".. autofunction:: {name}"]
    return [f".. py:data:: {name}", "", f"   {type(thing).__name__} of {', '.join(map(str, thing))}"]


def setup(app) -> dict[str, bool]:
    """Registers the directive."""
    app.add_directive("public-names", PublicNames)
    return {"parallel_read_safe": True}
