"""Curves, bars and histograms as SVG text, drawn here: a plotting library takes seconds to come.

Charts are the same for the same data, hold text as text, name no ids and need nothing outside.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np

from nid_jax.reporting.pictures import COLOURS, GRID, INK, QUIET

SIZE = (520, 280)
"""Pixels of a chart: width and height."""
FEWEST = 5
"""Points that make a curve; fewer are drawn as points, which claim nothing between them."""
_MARKED = 24
# Room around the axes: left, right, above and below them; the title's and the legend's lines.
_LEFT, _RIGHT, _TOP, _BOTTOM, _LINE = 64, 14, 12, 40, 20
# Points of one curve, at most: more than there are pixels.
_POINTS = 600
# The height of a row of points, and how many it has, at most.
_STRIP, _STRIPPED = 34, 200


def curves_svg(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float | None]]],
    *,
    title: str = "",
    x: str = "step",
    y: str = "",
    log: bool = False,
    size: tuple[int, int] = SIZE,
) -> str:
    """Curves as SVG text: name -> (abscissae, ordinates), in one chart; `size` in pixels.

    Ordinates that are None, NaN or infinite leave a gap; fewer than 5 points are not joined. `log`
    draws a logarithmic ordinate where all values are positive. Raises ValueError when there is
    nothing to draw.
    """
    arrays = {name: _finite(xs, ys) for name, (xs, ys) in curves.items()}
    values = np.concatenate([ys[np.isfinite(ys)] for _, ys in arrays.values()] or [np.empty(0)])
    if not values.size:
        raise ValueError("no curves to draw")
    places = np.concatenate([xs for xs, _ in arrays.values()])
    logarithmic = log and values.min() > 0
    axes = _Axes(size, title, x, y, legend=list(arrays) if len(arrays) > 1 else [])
    axes.span(_padded(places, 0.03), _padded(values, 0.06, logarithmic), logarithmic)
    drawn = [_curve(axes, xs, ys, number) for number, (xs, ys) in enumerate(arrays.values())]
    return axes.svg(drawn)


def bars_svg(
    values: Sequence[float],
    *,
    title: str = "",
    x: str = "",
    y: str = "",
    size: tuple[int, int] = SIZE,
) -> str:
    """Values as adjoining bars, as SVG text: for how often each expert is used."""
    heights = np.asarray(values, float)
    if heights.ndim != 1 or not heights.size:
        raise ValueError(f"bars are [n] with n > 0; got shape {heights.shape}")
    return _stairs(np.arange(heights.size + 1.0), np.nan_to_num(heights), title, x, y, size)


def histogram_svg(
    values: Sequence[float | None],
    *,
    title: str = "",
    x: str = "",
    y: str = "",
    bins: int = 20,
    size: tuple[int, int] = SIZE,
) -> str:
    """How the finite values are distributed, as SVG text."""
    known = np.asarray([value for value in values if value is not None], float)
    known = known[np.isfinite(known)]
    if not known.size:
        raise ValueError("no finite values to draw")
    counts, edges = np.histogram(known, bins=bins)
    return _stairs(edges, counts.astype(float), title, x, y, size)


def strips_svg(
    values: Mapping[str, Sequence[float]], *, title: str = "", x: str = "", width: int = SIZE[0]
) -> str:
    """A row of points for each name over one abscissa, and a mark at its mean, as SVG text.

    Of more than 200 values a row has so many, from the lowest to the highest. Raises ValueError
    where there are no finite values.
    """
    rows = {name: np.sort(_known(one)) for name, one in values.items()}
    every = np.concatenate([np.empty(0), *rows.values()])
    if not every.size:
        raise ValueError("no finite values to draw")
    left = min(width // 3, round(20 + 6.6 * max(map(len, rows))))
    height = _TOP + _LINE * bool(title) + _STRIP * len(rows) + _BOTTOM
    axes = _Axes((width, height), title, x, "", left=left)
    axes.span(_padded(every, 0.04), (len(rows), 0), named=list(rows))
    drawn = []
    for place, (name, row) in enumerate(rows.items()):
        colour, y = COLOURS[place % len(COLOURS)], axes.y(place + 0.5)
        if len(row) > _STRIPPED:
            row = row[np.linspace(0, len(row) - 1, _STRIPPED).round().astype(int)]
        drawn += [
            f'<circle cx="{axes.x(one):.1f}" cy="{y:.1f}" r="4" fill="{colour}" '
            'fill-opacity="0.45"/>'
            for one in row
        ]
        if len(row):
            middle = axes.x(float(rows[name].mean()))
            mark = f"M{middle:.1f} {y - 10:.1f}v20"
            drawn.append(f'<path d="{mark}" stroke="{colour}" stroke-width="3"/>')
    return axes.svg(drawn)


def _known(values):
    found = np.array([math.nan if value is None else value for value in values], float)
    return found[np.isfinite(found)]


def _stairs(edges, heights, title, x, y, size):
    """One filled outline instead of a rectangle each: a thousand experts stay a small file."""
    axes = _Axes(size, title, x, y)
    top = float(heights.max(initial=0.0)) or 1.0
    low = min(0.0, float(heights.min()))
    axes.span((float(edges[0]), float(edges[-1])), (low, 1.04 * top))
    corners = [(edges[0], 0.0)]
    for left, right, height in zip(edges[:-1], edges[1:], heights, strict=True):
        corners += [(left, height), (right, height)]
    corners.append((edges[-1], 0.0))
    path = axes.path(corners)
    return axes.svg([f'<path d="{path}Z" fill="{COLOURS[0]}"/>'])


def _finite(xs, ys):
    """float64 (abscissae, ordinates), NaN for what is no finite number; thinned to what is seen."""
    abscissae = np.asarray(xs, float)
    ordinates = np.array([math.nan if value is None else value for value in ys], float)
    ordinates[~np.isfinite(ordinates)] = np.nan
    if len(abscissae) <= _POINTS:
        return abscissae, ordinates
    # The lowest and the highest of each piece: spikes stay.
    kept = {0, len(abscissae) - 1}
    for piece in np.array_split(np.arange(len(abscissae)), _POINTS // 2):
        known = piece[~np.isnan(ordinates[piece])]
        if len(known):
            kept |= {known[ordinates[known].argmin()], known[ordinates[known].argmax()]}
    chosen = np.array(sorted(kept))
    return abscissae[chosen], ordinates[chosen]


def _curve(axes, xs, ys, number):
    colour = COLOURS[number % len(COLOURS)]
    known = np.isfinite(ys)
    parts = []
    if known.sum() >= FEWEST:
        ends = np.flatnonzero(np.diff(np.r_[False, known, False].astype(int)))
        runs = zip(ends[::2], ends[1::2], strict=True)
        path = "".join(
            axes.path(list(zip(xs[a:b], ys[a:b], strict=True))) for a, b in runs if b - a > 1
        )
        line = f'stroke="{colour}" stroke-width="1.8" stroke-linejoin="round"'
        parts.append(f'<path d="{path}" fill="none" {line}/>')
    if known.sum() <= _MARKED:
        parts += [
            f'<circle cx="{axes.x(a):.1f}" cy="{axes.y(b):.1f}" r="3" fill="{colour}"/>'
            for a, b in zip(xs[known], ys[known], strict=True)
        ]
    return "".join(parts)


def _padded(values, share, logarithmic=False):
    """(low, high) a little beyond the values; of one value, around it."""
    values = np.log10(values) if logarithmic else values
    low, high = float(values.min()), float(values.max())
    room = share * (high - low) or max(abs(high), 1.0) * 0.05
    ends = (low - room, high + room)
    return (10 ** ends[0], 10 ** ends[1]) if logarithmic else ends


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from low to high, about `count` of them: steps of 1, 2 or 5 times a power."""
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(digit for digit in (1, 2, 5, 10) if digit * power >= 0.999 * rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    if first == last and count > 2:
        # One tick says nothing of the scale.
        return ticks(low, high, 2 * count)
    return [number * step for number in range(first, last + 1)]


def _log_ticks(low, high):
    """Powers of ten, with 2 and 5 times them where there are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        found = [d * 10.0**p for p in range(first, last + 1) for d in digits]
        found = [value for value in found if low <= value <= high]
        if len(found) >= 3:
            break
    else:
        return ticks(low, high)
    return found[:: max(1, math.ceil(len(found) / 6))]


def _number(value, step):
    """A tick's label: as many decimals as the step has, a power for what is very large or small."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3g}"
    decimals = max(0, -math.floor(math.log10(abs(step)) + 1e-9))
    return f"{value:.{decimals}f}"


class _Axes:
    """A frame with ticks and words, and where values lie in it."""

    def __init__(self, size, title, x, y, legend=(), left=_LEFT):
        self.size, self.title, self.words, self.legend = size, title, (x, y), list(legend)
        width, height = size
        top = _TOP + _LINE * bool(title) + _LINE * bool(legend)
        self.box = (left + 16 * bool(y), top, width - _RIGHT, height - _BOTTOM + 14 * (not x))

    def span(self, across, up, logarithmic=False, named=None):
        """Ends of both axes; named: rows upwards from 0 that have names instead of numbers."""
        self.across, self.up, self.logarithmic = across, up, logarithmic
        self.named = named

    def x(self, value):
        left, _, right, _ = self.box
        low, high = self.across
        return left + (value - low) / (high - low) * (right - left)

    def y(self, value):
        _, top, _, bottom = self.box
        low, high = self.up
        if self.logarithmic:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        return bottom - (value - low) / (high - low) * (bottom - top)

    def path(self, corners):
        """An SVG path through points in the units of the data."""
        steps = (f"{self.x(a):.1f} {self.y(b):.1f}" for a, b in corners)
        return "M" + "L".join(steps)

    def svg(self, drawn):
        width, height = self.size
        left, top, right, bottom = self.box
        parts = [*self._grid(), *drawn]
        parts.append(f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="#9aa5b1"/>')
        x, y = self.words
        if self.title:
            parts.append(_text(2, 18, self.title, INK, size=14))
        if x:
            parts.append(_text((left + right) / 2, height - 6, x, QUIET, "middle"))
        if y:
            middle = (top + bottom) / 2
            turned = f' transform="rotate(-90 14 {middle:.1f})"'
            parts.append(_text(14, middle, y, QUIET, "middle", more=turned))
        parts += self._legend()
        label = html.escape(self.title or "chart", quote=True)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'role="img" aria-label="{label}" font-family="sans-serif" font-size="12">'
            + "".join(parts)
            + "</svg>"
        )

    def _grid(self):
        left, top, right, bottom = self.box
        across = ticks(*self.across, count=max(2, round((right - left) / 90)))
        # Steps and counts are whole numbers.
        if self.across[1] - self.across[0] < len(across):
            whole = [value for value in across if float(value).is_integer()]
            across = whole if len(whole) > 1 else across
        step = across[1] - across[0] if len(across) > 1 else 1.0
        for value in across:
            yield f'<path d="M{self.x(value):.1f} {bottom}v4" stroke="#9aa5b1"/>'
            yield _text(self.x(value), bottom + 17, _number(value, step), QUIET, "middle")
        if self.named is not None:
            for place, name in enumerate(self.named):
                height = self.y(place + 0.5)
                yield f'<path d="M{left} {height:.1f}H{right}" stroke="{GRID}"/>'
                yield _text(left - 8, height + 4, _fitting(name, left - 10), INK, "end")
            return
        up = _log_ticks(*self.up) if self.logarithmic else ticks(*self.up, count=4)
        for index, value in enumerate(up):
            height = self.y(value)
            yield f'<path d="M{left} {height:.1f}H{right}" stroke="{GRID}"/>'
            # As fine as what tells it from its neighbour.
            beside = up[index - 1] if index else up[min(1, len(up) - 1)]
            label = _number(value, abs(value - beside) or abs(value) or 1.0)
            yield _text(left - 6, height + 4, label, QUIET, "end")

    def _legend(self):
        place = float(self.box[0])
        line = self.box[1] - 8
        parts = []
        for number, name in enumerate(self.legend):
            colour = COLOURS[number % len(COLOURS)]
            parts.append(
                f'<path d="M{place:.0f} {line - 4}h16" stroke="{colour}" stroke-width="3"/>'
            )
            parts.append(_text(place + 21, line, name, INK))
            place += 36 + 6.6 * len(name)
        return parts


def _fitting(name, width):
    """A name that is no wider than so many pixels."""
    most = max(1, int(width / 6.6))
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _text(x, y, words, colour, anchor="start", size=0, more=""):
    large = f' font-size="{size}"' if size else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}"{large}{more}>'
        f"{html.escape(words)}</text>"
    )
