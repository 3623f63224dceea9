"""The cost model of a step on a mesh: counted by hand, and what a mesh must do to it."""

import dataclasses
import json

import pytest
from measuring.lowering import collective_bytes
from studies.scaling_costs import (
    KINDS,
    Sizes,
    fit,
    step_bytes,
    step_memory,
    step_products,
    step_solves,
    wire_bytes,
)

SIZES = Sizes(8, 100, 16, 2, (3, 5, 7), channels=2, collection=40)


def on(data, expert, **changes):
    return dataclasses.replace(SIZES, data=data, expert=expert, **changes)


def test_products_of_a_joint_step_are_those_of_its_matrices():
    # Every product m x k x n of value and gradients, written out.
    trunk = [(100, 3, 5), (100, 5, 7), (3, 100, 5), (5, 100, 7), (100, 7, 5)]
    fold = [(14, 16, 8), (14, 8, 16), (8, 14, 16)]
    render = [(100, 7, 16), (100, 16, 7), (7, 100, 16)]
    by_hand = {
        "trunk": sum(2 * a * b * c for a, b, c in trunk),
        "fold": sum(2 * a * b * c for a, b, c in fold),
        "render": sum(2 * a * b * c for a, b, c in render),
    }
    assert step_products("joint, dense", SIZES) == by_hand


def test_solved_codes_take_the_cheaper_gram():
    few, many = (dataclasses.replace(SIZES, points=points) for points in (1, 1000))
    assert "Gram of atoms" in step_products("varpro", few)
    assert "Gram of features" in step_products("varpro", many)


@pytest.mark.parametrize("kind", KINDS)
def test_one_device_sends_nothing_and_meshes_share(kind):
    assert step_bytes(kind, SIZES) == {}
    alone, both = (sum(step_products(kind, s).values()) for s in (SIZES, on(4, 2)))
    whole = step_products(kind, SIZES)["trunk"]
    assert whole < both < alone
    if kind == "varpro":
        # A factor is not shared, its solves are by all devices.
        one, all_of = step_solves(kind, SIZES), step_solves(kind, on(4, 2))
        assert one == {"factor": 16**3 / 3, "solves": 4 * 16**2 * 8}
        assert all_of == {"factor": 16**3 / 3, "solves": 4 * 16**2}
    memory = [sum(step_memory(kind, s).values()) for s in (SIZES, on(1, 2), on(4, 2))]
    assert memory == sorted(memory, reverse=True)


def test_bytes_of_what_is_exchanged():
    found = step_bytes("joint, sparse", on(2, 4))
    assert found == {
        ("folded heads", "expert", "all-reduce"): 4 * 4 * 2 * 8,
        ("features' gradient", "data", "all-reduce"): 4 * 100 * 7,
        ("heads' gradient", "data", "all-reduce"): 4 * 8 * 2 * 4,
        ("codebook's gradient", "data", "all-reduce"): 4 * 40 * (4 + 2),
        ("candidates", "expert", "all-gather"): 4 * 2 * 4 * 2 * 4,
        ("places of codes", "data", "all-gather"): 4 * 2 * 8 * 2,
    }
    gathered = sum(n for (*_, what), n in found.items() if what == "all-gather")
    assert wire_bytes(found) == 2 * sum(found.values()) - gathered


def test_solved_signals_send_nothing_of_their_own():
    # Over data alone gradients travel, however many signals there are; else heads and matrix too.
    few, many = (step_bytes("varpro", on(8, 1, signals=n)) for n in (8, 800))
    assert few == many
    assert few == {
        ("features' gradient", "data", "all-reduce"): 4 * 100 * 7,
        ("heads' gradient", "data", "all-reduce"): 4 * 8 * 2 * 16,
    }
    split = step_bytes("varpro", on(1, 8))
    assert split["Gram", "expert", "all-gather"] == 4 * 16**2
    assert split["Gram, turned", "expert", "all-to-all"] == 4 * 16 * 2
    assert split["heads of signals", "expert", "all-gather"] == 4 * 8 * 2 * 16


def test_fits_of_more_signals_cost_less_each():
    few, many = (dataclasses.replace(SIZES, signals=signals) for signals in (8, 800))
    for solver in ("ridge", "gaussian", "omp"):
        assert fit(solver, many, top_k=2) / 800 < fit(solver, few, top_k=2) / 8


def test_bytes_of_collectives_in_a_program():
    text = """
  %all-reduce.2 = (f32[8,1]{1,0}, f64[3]{0}) all-reduce(%a, %b), channel_id=4
  %all-gather.1 = s32[8,8]{0,1} all-gather(%c), dimensions={1}
  %all-reduce.3 = pred[] all-reduce(%d), channel_id=5
  %e = f32[100]{0} add(%all-reduce.2, %all-gather.1)
"""
    assert collective_bytes(text) == {"all-reduce": 8 * 4 + 3 * 8 + 1, "all-gather": 256}
    with pytest.raises(ValueError, match="all-gather-start"):
        collective_bytes("%a = (f32[1], f32[2]) all-gather-start(%b)")


@pytest.mark.slow
def test_scaling(tmp_path, smoke):
    smoke("scaling", tmp_path)
    found = json.loads((tmp_path / "metrics.json").read_text())
    for row in found["compiled"]:
        for name in ("flops", "memory"):
            ours, theirs = row[name]
            assert 0.5 < ours / theirs < 1.2, (name, row)
    (one, two) = found["compiled"]
    assert one["bytes"] == [0, 0]
    assert 0.9 < two["bytes"][0] / two["bytes"][1] < 1.1
    assert [row["processes"] for row in found["processes"]] == [1, 1, 2, 2]
    assert all(row["seconds"] >= row["least"] > 0 for row in found["processes"])
