"""Configs of trainings that cannot be: one line that names the key, before any work."""

import pytest

from nid_jax.configs import image
from nid_jax.training import checks


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("seed", 2**32, "seed: 4294967296; allowed: 0 to 4294967295"),
        ("seed", 2**70, f"seed: {2**70}; allowed: 0 to 4294967295"),
        ("seed", -1, "seed: -1; allowed: 0 to 4294967295"),
    ],
)
def test_what_cannot_be_names_its_key(key, value, words):
    config = image.base()
    checks.check(config)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match="allowed: ") as complaint:
        checks.check(config)
    assert str(complaint.value).startswith(words)
    assert "\n" not in str(complaint.value)


def test_the_largest_seed_is_a_seed():
    config = image.base()
    config.seed = 2**32 - 1
    checks.check(config)
