"""config.fit.refine becomes the refinement of its kind, and refusals name its keys."""

import pytest
from ml_collections import ConfigDict

from nid_jax.coding.low_rank import LowRank
from nid_jax.coding.total_variation import TotalVariation
from nid_jax.fitting import refining


def wanted(**changes):
    keys = {"kind": "none", "tv": 0.003, "lam": 0.01, "bounds": (), "rank": 0, "share": 0.001}
    return ConfigDict({**keys, "steps": 100, **changes})


def test_every_kind_takes_its_own_keys():
    assert refining.from_config(wanted()) is None
    found = refining.from_config(wanted(kind="grid", tv=0.5, lam=0.25, steps=7, bounds=(0.0, 2.0)))
    assert found == TotalVariation(tv=0.5, lam=0.25, steps=7, bounds=(0.0, 2.0))
    assert refining.from_config(wanted(kind="grid")).bounds is None
    found = refining.from_config(wanted(kind="atoms", rank=3, share=0.01, steps=7))
    assert found == LowRank(rank=3, share=0.01, steps=7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "gird"}, "fit.refine.kind: 'gird'; allowed: none, grid, atoms"),
        ({"kind": "grid", "bounds": (1.0, 0.0)}, r"fit.refine.bounds: \(1.0, 0.0\); allowed"),
        ({"kind": "grid", "tv": -1.0}, "fit.refine.tv: -1.0; allowed: finite, 0 or more"),
        ({"kind": "atoms", "share": 2.0}, "fit.refine.share: 2.0; allowed"),
    ],
)
def test_refusals_name_the_key(changes, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        refining.from_config(wanted(**changes))
