"""Numbers in words, and tables that align."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nid_jax.reporting import tables


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (7, "7"), (0.5, "0.5"), (999, "999"), (999.7, "1k"), (12345, "12.3k")]
    + [(4.56e6, "4.56M"), (2e12, "2000G"), (-1500, "-1.5k"), (math.nan, "nan")],
)
def test_counts(number, text):
    assert tables.format_count(number) == text


@settings(max_examples=50, deadline=None)
@given(number=st.integers(0, 2**50))
def test_bytes_say_the_number_to_its_digits(number):
    value, unit = tables.format_bytes(number).split()
    scale = 1024 ** ["B", "KiB", "MiB", "GiB", "TiB"].index(unit)
    assert abs(float(value) * scale - number) <= 0.051 * scale + 0.005 * number
    assert float(value) <= 1024


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.421, "0.421 s"), (12.34, "12.3 s"), (185, "3:05 min"), (7651, "2:07:31 h")]
    + [(math.nan, "--")],
)
def test_durations(seconds, text):
    assert tables.format_duration(seconds) == text


def test_tables_align_and_numbers_stand_right():
    rows = [["ridge", 27.12345, 64], ["a|b", None, 1024]]
    headers = ["solver", "PSNR", "K"]
    lines = tables.table(rows, headers).splitlines()
    assert lines == [
        "solver   PSNR     K",
        "------  -----  ----",
        "ridge   27.12    64",
        "a|b         –  1024",
    ]
    assert tables.markdown_table(rows, headers).splitlines() == [
        "| solver | PSNR | K |",
        "| --- | ---: | ---: |",
        "| ridge | 27.12 | 64 |",
        "| a\\|b | – | 1024 |",
    ]
    assert tables.table([], headers).splitlines()[0] == "solver  PSNR  K"
    with pytest.raises(ValueError, match="2 cells"):
        tables.table([[1, 2]], headers)
