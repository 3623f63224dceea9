"""What pages take from the code itself.

    ```{config-keys} dictionary
    ```

is a table of the keys of that group, `top` of those that stand alone;

    ```{public-names} nid_jax.operators
    ```

all that a public package names, or of it what the option `only` lists.
"""

import importlib
import inspect
import re

import config_keys
from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

from nid_jax import configs


class ConfigKeys(Directive):
    """`config-keys` GROUP: a table of the keys that begin with GROUP, or stand alone."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Nodes of the table."""
        group, said = self.arguments[0], config_keys.comments()
        rows = []
        for path, values in config_keys.keys().items():
            if path.split(".")[0] == group or (group == "top" and "." not in path):
                rows.append(_row(path, values, said[path]))
        table = ["| key | value | what |", "|---|---|---|", *rows]
        holder = nodes.container()
        self.state.nested_parse(StringList(table, "config keys"), 0, holder)
        return holder.children


def _row(path: str, values: dict[str, object], comment: str) -> str:
    usual: dict[str, list[str]] = {}
    for name, value in values.items():
        usual.setdefault(repr(value), []).append(name)
    said = [
        f"`{value}`" + ("" if len(usual) == 1 else f" {', '.join(names)}")
        for value, names in usual.items()
    ]
    everywhere = len(values) == len(configs.names())
    where = "" if everywhere or len(usual) > 1 else f" ({', '.join(values)})"
    text = re.sub(r"([\\*_|<\[{$])", r"\\\1", comment)
    return f"| `{path}` | {'; '.join(said)}{where} | {text} |"


class PublicNames(Directive):
    """`public-names` ROOM: each name with its signature and docstring."""

    required_arguments = 1
    option_spec = {"only": str.split}

    def run(self) -> list[nodes.Node]:
        """Nodes of every name in the order of `__all__`."""
        room = _room(self.arguments[0])
        names = self.options.get("only", room.__all__)
        # The page is Markdown, in which what Sphinx has for Python stands inside of a fence.
        lines = ["````{eval-rst}"]
        for name in names:
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
    return [
        f".. py:data:: {name}",
        "",
        f"   {type(thing).__name__} of {', '.join(map(str, thing))}",
    ]


def setup(app) -> dict[str, bool]:
    """Registers both."""
    app.add_directive("config-keys", ConfigKeys)
    app.add_directive("public-names", PublicNames)
    return {"parallel_read_safe": True}
