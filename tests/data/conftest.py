"""A complete data config, and picture files written by the tests themselves."""

import ml_collections
import pytest


@pytest.fixture
def data_config():
    """make(key=value, ...) -> the `data` part of a config with every key present."""

    def make(**changes):
        config = {
            "name": "faces",
            "root": "",
            "size": (),
            "resize": False,
            "crop": "",
            "gray": False,
            "crops": 0,
            "num_train": 0,
            "num_test": 0,
            "test_fraction": 0.25,
            "augment": {"mirror": False, "shifts": 0, "max_shift": 2},
            "patch": {"size": 0, "overlap": 0},
        }
        assert set(changes) <= set(config)
        for key, value in changes.items():
            config[key] = config[key] | value if isinstance(value, dict) else value
        config["root"] = str(config["root"])
        return ml_collections.ConfigDict(config)

    return make
