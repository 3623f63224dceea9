"""The signals of the lowest and the highest score."""

import numpy as np

from nid_jax.reporting import ranking
from nid_jax.reporting.panels import Score

SCORES = [Score("psnr", "PSNR", "dB", better="high"), Score("left", "Misfit", "%")]


def test_lowest_and_highest_of_many_signals_are_named():
    values = [float(one) for one in np.random.default_rng(0).permutation(2000)]
    names = [f"n{index}" for index in range(2000)]
    found = ranking.extremes({"psnr_per_signal": [None, *values[1:]]}, SCORES, names)
    assert found["count"] == 1999
    (_, low), (_, middle), (_, high) = found["rows"]
    order = np.argsort(values)
    order = order[order != 0]
    assert [index for index, *_ in low] == order[:3].tolist()
    assert [index for index, *_ in middle] == [order[999]]
    assert [index for index, *_ in high] == order[-3:][::-1].tolist()
    assert high[0][1:] == (names[order[-1]], SCORES[0].text(values[order[-1]]))
    assert ranking.extremes({"psnr_per_signal": values[:4]}, SCORES, names[:4]) is None
    assert ranking.extremes({"psnr_per_signal": values}, SCORES, names[:4]) is None
