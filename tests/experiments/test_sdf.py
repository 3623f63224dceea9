"""The comparison of shapes: its choices and its table."""

import numpy as np
import sdf


def test_what_is_tuned_is_the_best_of_what_may_be_chosen():
    truth = sdf.Shapes(-np.ones((1, 10, 1)), None, [])
    asked = []

    def solve(*option):
        asked.append(option)
        inside = 7 if option == (sdf.NOISES[1], 100, sdf.FOCUSES[0]) else 3
        return sdf.Result(np.where(np.arange(10) < inside, -1.0, 1.0)[None], 0.0)

    assert sdf.tuned(solve, truth, 200, 0.01) == (sdf.NOISES[1], 100, sdf.FOCUSES[0])
    assert {neighbours for _, neighbours, _ in asked} == {0, 100}
    asked.clear()
    assert sdf.tuned(solve, truth, 200, 1.0)[:2] == (sdf.NOISES[2], 0)
    assert {option[:2] for option in asked} == {(sdf.NOISES[2], 0)}
    assert {option[2] for option in asked} == set(sdf.FOCUSES)


def test_a_part_is_put_beside_the_other():
    results = {"scores": {"2%": {"ours": 1}}, "training_seconds": {"ours": 2.0}}
    sdf.join(results, {"2%": {"theirs": 3}, "cloud": {"theirs": 4}}, {"theirs": 5.0})
    assert results["scores"] == {"2%": {"ours": 1, "theirs": 3}, "cloud": {"theirs": 4}}
    assert results["training_seconds"] == {"ours": 2.0, "theirs": 5.0}


def test_the_table_says_where_there_is_no_surface():
    row = {"iou": 0.5, "chamfer": np.inf, "normal_consistency": 0.0, "fscore": 0.0, "seconds": 2.0}
    text = sdf.table({"2%": {"a method": row}}, "a note")
    assert "| 2% | a method | 0.500 | no surface | 0.000 | 0.000 | 2 |" in text
    assert text.endswith("a note\n")
