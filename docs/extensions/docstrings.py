"""Docstrings as they stand in the code: `name` is code, an asterisk is an asterisk, and a colon
within a sentence parts no type from its description."""

import re


def _as_written(app, what, name, thing, options, lines: list[str]) -> None:
    """Before Napoleon, which reads the sections."""
    lines[:] = [_escaped(line) for line in lines]
    if "Returns:" in lines:
        start = lines.index("Returns:")
        end = start + 1
        while end < len(lines) and lines[end].startswith(" "):
            end += 1
        lines[start:end] = [":returns: " + lines[start + 1].strip(), *lines[start + 2 : end]]
    if what in ("attribute", "property"):
        options.written = list(lines)


def _restored(app, what, name, thing, options, lines: list[str]) -> None:
    """After Napoleon, to which an attribute's first line begins with its type."""
    if what in ("attribute", "property"):
        lines[:] = options.written


def _escaped(line: str) -> str:
    parts = re.split(r"(``[^`]*``|`[^`]*`(?!_))", line)
    for number, part in enumerate(parts):
        if number % 2 == 0:
            parts[number] = part.replace("*", r"\*").replace("|", r"\|")
        elif not part.startswith("``"):
            parts[number] = f"`{part}`"
    # One capital and a full stop would be an item of a list.
    return re.sub(r"^([A-Z])\.$", r"\\\1.", "".join(parts))


def setup(app) -> dict[str, bool]:
    """Registers what comes before and after."""
    app.connect("autodoc-process-docstring", _as_written, priority=400)
    app.connect("autodoc-process-docstring", _restored, priority=600)
    return {"parallel_read_safe": True}
