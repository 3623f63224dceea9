"""Charts are well-formed, free of the outside, and put points where their values are."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from nid_jax.reporting import charts


def parsed(svg):
    return ElementTree.fromstring(svg)


def marks(svg):
    """Centres of the points, in pixels."""
    circles = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)
    return [(float(x), float(y)) for x, y in circles]


def labels(svg):
    """{text: (x, y)} of all words."""
    found = [e for e in parsed(svg).iter() if e.tag.endswith("text")]
    return {e.text: (float(e.get("x")), float(e.get("y"))) for e in found}


def test_points_lie_where_the_ticks_say():
    svg = charts.curves_svg({"a": ([0, 10, 20, 30, 40], [1.0, 2.0, 3.0, 4.0, 5.0])})
    points, words = marks(svg), labels(svg)
    assert len(points) == 5
    assert svg.count('fill="none" stroke="#2f6690"') == 1
    for value, (x, _) in zip((0, 10, 20, 30, 40), points, strict=True):
        assert words[str(value)][0] == pytest.approx(x, abs=0.2)
    # A tick's word stands 4 pixels below its line.
    for value in (2, 4):
        assert words[str(value)][1] - 4 == pytest.approx(points[value - 1][1], abs=0.2)


def test_a_logarithmic_ordinate_puts_decades_at_even_distances():
    svg = charts.curves_svg({"a": (range(5), [1e-3, 1e-2, 1e-1, 1, 10])}, log=True)
    heights = [y for _, y in marks(svg)]
    np.testing.assert_allclose(np.diff(heights), np.diff(heights)[0], atol=0.11)
    assert {"0.001", "1", "10"} <= set(labels(svg))
    # Not of what is zero somewhere.
    linear = charts.curves_svg({"a": (range(5), [0, 1, 2, 3, 4])}, log=True)
    steps = np.diff([y for _, y in marks(linear)])
    np.testing.assert_allclose(steps, steps[0], atol=0.11)


def test_labels_of_a_narrow_range_tell_ticks_apart():
    svg = charts.curves_svg({"a": (range(6), [0.0131, 0.0135, 0.014, 0.015, 0.0165, 0.0176])})
    logged = charts.curves_svg(
        {"a": (range(6), [0.0131, 0.0135, 0.014, 0.015, 0.0165, 0.0176])}, log=True
    )
    for chart in (svg, logged):
        left = [e for e in parsed(chart).iter() if e.get("text-anchor") == "end"]
        words = [e.text for e in left]
        assert len(words) >= 2
        assert len(set(words)) == len(words)


def test_fewer_than_five_points_are_not_joined():
    for count in range(1, 8):
        svg = charts.curves_svg({"a": (range(count), np.arange(count) * 1.0)})
        assert ('fill="none" stroke="#2f6690"' in svg) == (count >= charts.FEWEST)
        assert len(marks(svg)) == count


def test_gaps_stay_gaps_and_long_curves_keep_their_spikes():
    ys = [1.0, 2.0, 3.0, None, 5.0, np.inf, 7.0, 8.0]
    svg = charts.curves_svg({"a": (range(8), ys)})
    (path,) = re.findall(r'<path d="([^"]*)" fill="none" stroke="#2f6690"', svg)
    assert path.count("M") == 2  # a lone point between two gaps is no line
    assert len(marks(svg)) == 6
    long = np.zeros(100_000)
    long[54_321] = 9.0
    svg = charts.curves_svg({"a": (range(100_000), long)})
    assert len(svg) < 20_000
    (path,) = re.findall(r'<path d="([^"]*)" fill="none" stroke="#2f6690"', svg)
    heights = [float(pair.split()[1]) for pair in path[1:].split("L")]
    assert min(heights) < min(h for h in heights if h != min(heights)) - 100


def test_names_and_titles_are_text():
    evil = '<b a="1">&'
    svg = charts.curves_svg({evil: ([0], [1.0]), "d": ([0], [-1.0])}, title=evil, x=evil, y=evil)
    assert "<b" not in svg
    assert sum(text == evil for text in parsed(svg).itertext()) == 4


def test_a_histogram_counts_all_and_a_thousand_bars_are_one_outline():
    values = [1.0, 2.0, None, 2.5, np.inf, 2.6]
    svg = charts.histogram_svg(values, bins=2)
    (path,) = re.findall(r'<path d="([^"]*)Z"', svg)
    corners = [tuple(map(float, pair.split())) for pair in path[1:].split("L")]
    heights = corners[0][1] - np.array([corners[1][1], corners[3][1]])
    assert heights[1] == pytest.approx(3 * heights[0], rel=0.01)
    bars = charts.bars_svg(np.arange(1000) / 1000)
    assert bars.count(f'<path d="M{charts._LEFT}') >= 1
    assert len(bars) < 60_000


@pytest.mark.parametrize(
    "draw",
    [
        lambda: charts.curves_svg({}),
        lambda: charts.curves_svg({"a": ([1], [None])}),
        lambda: charts.bars_svg([]),
        lambda: charts.histogram_svg([None]),
    ],
)
def test_nothing_to_draw_is_an_error(draw):
    with pytest.raises(ValueError, match=r"no |n > 0"):
        draw()


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (17.5, 18.7, [17.5, 18, 18.5]),
        (-3, 3, [-2, 0, 2]),
        (26, 34.1, [26, 28, 30, 32, 34]),
    ],
)
def test_ticks_are_round(low, high, expected):
    np.testing.assert_allclose(charts.ticks(low, high, 4 if high != 1 else 5), expected)


def test_strips_have_a_row_of_points_for_each_name_and_a_mark_at_the_mean():
    values = {
        "ours <1>": [1.0, 2.0, 3.0, None],
        "theirs, of a name that is rather long": [5.0] * 500,
    }
    text = charts.strips_svg(values, title="PSNR", x="PSNR, dB")
    ElementTree.fromstring(text)
    assert "ours &lt;1&gt;" in text
    assert "PSNR, dB" in text
    places = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', text)]
    assert len(places) == 3 + 200
    marks = [float(x) for x in re.findall(r'd="M([\d.]+) [\d.]+v20"', text)]
    assert marks == [places[1], places[3]]
    rows = {float(y) for y in re.findall(r'<circle cx="[\d.]+" cy="([\d.]+)"', text)}
    assert len(rows) == 2
    with pytest.raises(ValueError, match="no finite values"):
        charts.strips_svg({"a": [None]})
