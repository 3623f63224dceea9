"""metrics.jsonl and TensorBoard's files."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from nid_jax.reporting import metrics_log


def _events(folder):
    """Every event in TensorBoard's files, read by their record format."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def test_scalars_reach_both_files(tmp_path):
    with metrics_log.MetricWriter(tmp_path) as writer:
        writer.scalars(
            10, {"loss": jnp.float32(0.25), "train_psnr": np.float64(20), "bad": math.nan}
        )
        line = json.loads(writer.path.read_text())  # on disk before anything is closed
        writer.images(10, {"faces": np.full((4, 6, 2), 0.5, np.float32)})
        with pytest.raises(ValueError, match=r"'codes'.*\(3,\)"):
            writer.scalars(11, {"codes": np.zeros(3)})
    assert line.pop("time") >= 0
    assert line == {"step": 10, "loss": 0.25, "train_psnr": 20.0, "bad": None}
    values = [v for event in _events(tmp_path / "events") for v in event.summary.value]
    scalars = {v.tag: v.simple_value for v in values if v.HasField("simple_value")}
    assert scalars == {"loss": 0.25, "train_psnr": 20.0}
    pictures = [v.image for v in values if v.HasField("image")]
    assert [(p.height, p.width) for p in pictures] == [(4, 6)]


@pytest.mark.parametrize("torn", ["", '{"step": 6, "lo', '{"step": 6, "loss": "\xff'])
def test_resume_drops_later_steps_and_a_torn_line(tmp_path, torn):
    with metrics_log.MetricWriter(tmp_path) as writer:
        for step in range(6):
            writer.scalars(step, {"loss": step / 2})
    with open(writer.path, "a") as file:
        file.write(torn)
    assert [e["step"] for e in metrics_log.read_metrics(tmp_path)] == list(range(6))
    with metrics_log.MetricWriter(tmp_path) as again:
        again.truncate_after(3)
        again.scalars(4, {"loss": 9})
    entries = metrics_log.read_metrics(again.path)
    assert [e["step"] for e in entries] == [0, 1, 2, 3, 4]
    assert entries[-1]["loss"] == 9
    assert entries[-1]["time"] >= entries[-2]["time"]
    purged = [e.step for e in _events(tmp_path / "events") if e.HasField("session_log")]
    assert 4 in purged


def test_time_goes_on_from_the_earlier_process(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time": 500.0, "loss": 1.0}\n')
    with metrics_log.MetricWriter(tmp_path) as writer:
        writer.scalars(2, {"loss": 0.5})
    assert metrics_log.read_metrics(tmp_path)[1]["time"] >= 500


def test_a_bad_line_in_the_middle_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2"):
        metrics_log.read_metrics(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n[2]\n')
    with pytest.raises(ValueError, match=r"line 2: a JSON list of 1; allowed: a JSON object"):
        metrics_log.read_metrics(tmp_path)
    with pytest.raises(FileNotFoundError):
        metrics_log.read_metrics(tmp_path / "nowhere.jsonl")


def test_an_inactive_writer_writes_nothing(tmp_path):
    with metrics_log.MetricWriter(tmp_path / "run", active=False) as writer:
        writer.scalars(1, {"loss": 1})
        writer.images(1, {"a": np.zeros((2, 2, 1))})
        writer.truncate_after(0)
    assert list(tmp_path.iterdir()) == []
