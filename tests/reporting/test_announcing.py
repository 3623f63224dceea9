"""The lines that a run prints on start."""

import jax

from nid_jax.reporting import announcing


def test_device_summary_says_what_runs_where():
    mesh = jax.make_mesh((1, 1), ("data", "expert"))
    lines = announcing.device_summary(
        mesh,
        {"dictionary": 1_500_000, "router": 2500},
        config_path="run/config.json",
    )
    text = "\n".join(lines)
    assert "mesh data 1 x expert 1" in text
    assert "1.5M: dictionary 1.5M, router 2.5k" in text
    assert "run/config.json" in text
    assert len(announcing.device_summary(mesh, {"dictionary": 7})) == 2
