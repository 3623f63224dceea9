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
            "layout": "",
            "crops": 0,
            "range": (),
            "masks": {"hidden": "black"},
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


@pytest.fixture
def video_config(data_config):
    """make(**changes) -> data config of a video or clip; video, clip: changes to those parts."""

    def make(video=None, clip=None, **changes):
        made = data_config(**changes)
        made.video = {"start": 0, "stop": 0, "step": 1} | (video or {})
        made.clip = {"num_frames": 60, "objects": 3, "noise": 0.0} | (clip or {})
        return made

    return make
