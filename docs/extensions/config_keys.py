"""Every key of the configs with its value and the comment that stands beside it in configs/."""

import ast
import dataclasses
import importlib
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from nid_jax import configs


@dataclasses.dataclass(frozen=True)
class Note:
    """What a file says of the keys of one dict literal."""

    key: str
    holder: str  # the key, attribute or function that the literal belongs to
    siblings: frozenset[str]
    comment: str


def keys() -> dict[str, dict[str, object]]:
    """Dotted paths of all keys of all configs, each with its value in the configs that have it."""
    found: dict[str, dict[str, object]] = {}
    for name in configs.names():
        config = importlib.import_module(f"nid_jax.configs.{name}").get_config()
        for path, value in _leaves(config):
            found.setdefault(path, {})[name] = value
    return dict(sorted(found.items()))


def comments() -> dict[str, str]:
    """What is said of each key, '' where nothing is."""
    notes = [note for path in _files() for note in _notes(path.read_text(encoding="utf-8"))]
    siblings: dict[str, set[str]] = {}
    paths = list(keys())
    for path in paths:
        parts = path.split(".")
        for depth in range(len(parts)):
            siblings.setdefault(".".join(parts[:depth]), set()).add(parts[depth])
    return {path: _comment(path, notes, siblings) for path in paths}


def _comment(path: str, notes: list[Note], siblings: dict[str, set[str]]) -> str:
    """The comment on a key; of one that has none, of the group that it stands in."""
    parts = path.split(".")
    for depth in range(len(parts), 0, -1):
        group = ".".join(parts[: depth - 1])
        fitting = [
            note
            for note in notes
            if note.key == parts[depth - 1]
            and note.comment
            and note.siblings <= siblings.get(group, set())
        ]
        if fitting:
            holder = parts[depth - 2] if depth > 1 else ""
            best = max(fitting, key=lambda note: (note.holder == holder, len(note.siblings)))
            return best.comment
    return ""


def _leaves(group: ConfigDict, path: str = "") -> Iterator[tuple[str, object]]:
    for key in group:
        value = group[key]
        if isinstance(value, ConfigDict) and len(value):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield path + key, value


def _files() -> list[Path]:
    return sorted(Path(configs.__file__).parent.rglob("*.py"))


def _notes(source: str) -> Iterator[Note]:
    """Notes of a file: comments above keys of dict literals, and above assignments of keys."""
    lines = _comment_lines(source)
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign):
            yield from _of_assignment(node, lines)
        # What takes a config changes one that is there: a variant.
        elif isinstance(node, ast.FunctionDef) and "config" not in [a.arg for a in node.args.args]:
            for part in ast.walk(node):
                yield from _of_statement(part, node.name, lines)


def _of_statement(node: ast.AST, function: str, lines: dict[int, str]) -> Iterator[Note]:
    if isinstance(node, ast.Assign):
        yield from _of_assignment(node, lines)
    elif isinstance(node, ast.Return):
        for literal in _outermost(node.value):
            yield from _of_literal(literal, function, lines)
    elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "update":
        holder = getattr(node.func.value, "attr", "")
        for literal in node.args:
            if isinstance(literal, ast.Dict):
                yield from _of_literal(literal, holder, lines)


def _outermost(value: ast.expr | None) -> list[ast.Dict]:
    """A literal, or those that are arguments of a call."""
    found = value.args if isinstance(value, ast.Call) else [value]
    return [literal for literal in found if isinstance(literal, ast.Dict)]


def _of_assignment(node: ast.Assign, lines: dict[int, str]) -> Iterator[Note]:
    target = node.targets[0]
    if isinstance(target, ast.Attribute):
        holder = getattr(target.value, "attr", "")
        comment = _above(node.lineno, lines)
        yield Note(target.attr, holder, frozenset({target.attr}), comment)
        if isinstance(node.value, ast.Dict):
            yield from _of_literal(node.value, target.attr, lines)
    elif isinstance(node.value, ast.Dict):
        yield from _of_literal(node.value, "", lines)


def _of_literal(literal: ast.Dict, holder: str, lines: dict[int, str]) -> Iterator[Note]:
    """Notes on a literal's keys; keys without a comment of their own share the one above them."""
    named = [
        (key, value)
        for key, value in zip(literal.keys, literal.values, strict=True)
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    ]
    siblings = frozenset(key.value for key, _ in named)
    comment = ""
    for key, value in named:
        comment = _above(key.lineno, lines) or comment
        yield Note(key.value, holder, siblings, comment)
        if isinstance(value, ast.Dict):
            yield from _of_literal(value, key.value, lines)


def _above(line: int, lines: dict[int, str]) -> str:
    """The block of comment lines that ends just above a line."""
    block = []
    while line - 1 in lines:
        line -= 1
        block.append(lines[line])
    return " ".join(reversed(block))


def _comment_lines(source: str) -> dict[int, str]:
    """Lines that are comments and nothing else."""
    return {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and token.line.strip().startswith("#")
    }
