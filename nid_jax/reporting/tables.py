"""Numbers in words, and tables of them for the terminal and for Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nid_jax.notices import one_line


def format_count(number: float) -> str:
    """A number in three digits: 950, 12.3k, 4.56M."""
    if not math.isfinite(number):
        return str(number)
    unit = next((u for u in (1e9, 1e6, 1e3) if abs(number) >= 0.9995 * u), 1.0)
    scaled = number / unit
    digits = f"{scaled:.0f}" if abs(scaled) >= 99.95 else f"{scaled:.3g}"
    return digits + {1.0: "", 1e3: "k", 1e6: "M", 1e9: "G"}[unit]


def format_bytes(number: float) -> str:
    """Bytes in binary units: 512 B, 3.2 MiB, 140 GiB."""
    if abs(number) < 1024:
        return f"{number:.0f} B"
    power = min(4, int(math.log2(abs(number)) // 10))
    scaled = number / 1024**power
    unit = ("KiB", "MiB", "GiB", "TiB")[power - 1]
    return f"{scaled:.0f} {unit}" if abs(scaled) >= 100 else f"{scaled:.1f} {unit}"


def format_duration(seconds: float) -> str:
    """Seconds as a person says them: 0.42 s, 12.3 s, 3:05 min, 2:07:31 h."""
    if not math.isfinite(seconds):
        return "--"
    if seconds < 60:
        return f"{seconds:.3g} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"


def counted(number: int, one: str, many: str = "") -> str:
    """So many of a thing in words: '1 signal', '2 signals', '0 meshes' with many='meshes'."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def format_value(value: Any) -> str:
    """A table's cell: floats in four significant digits, whole ones without any; None as a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        if abs(value) < 1e6 and float(value).is_integer():
            return f"{value:.0f}"
        if 1000 <= abs(value) < 1e6:
            return f"{value:.0f}"
        return f"{value:#.4g}".rstrip(".") if 1e-3 <= abs(value) < 1e3 else f"{value:.4g}"
    return one_line(value)


def _cells(
    rows: Sequence[Sequence[Any]], headers: Sequence[str]
) -> tuple[list[list[str]], list[bool]]:
    """Text of each cell, the header's line first, and which columns hold numbers alone."""
    for row in rows:
        if len(row) != len(headers):
            raise ValueError(f"a row has {len(row)} cells and the table {len(headers)} columns")
    numeric = [
        any(not isinstance(row[c], str) and row[c] is not None for row in rows)
        and all(row[c] is None or not isinstance(row[c], str | bool) for row in rows)
        for c in range(len(headers))
    ]
    return [list(headers), *([format_value(cell) for cell in row] for row in rows)], numeric


def table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    """Aligned text for the terminal: a header, a rule, the rows; numbers to the right."""
    lines, numeric = _cells(rows, headers)
    widths = [max(len(line[c]) for line in lines) for c in range(len(headers))]

    def aligned(row: Sequence[str]) -> str:
        cells = zip(row, widths, numeric, strict=True)
        return "  ".join(t.rjust(w) if n else t.ljust(w) for t, w, n in cells).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([aligned(lines[0]), rule, *map(aligned, lines[1:])])


def markdown_table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    """The same table in Markdown, for a table.md; a bar inside a cell is escaped."""
    lines, numeric = _cells(rows, headers)
    lines = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    rule = ["---:" if right else "---" for right in numeric]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]]) + "\n"
