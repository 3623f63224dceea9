"""Metrics on disk, the chronometer, the progress line and the start-up lines."""

import io
import json
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from nid_jax.files import atomic_path
from nid_jax.reporting import monitoring
from nid_jax.storage import artefacts


class Clock:
    """A clock that goes only when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


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


# ---- artefacts


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    artefacts.write_text(path, "first")

    def fail():
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"sec")
            raise OSError("disk on fire")

    with pytest.raises(OSError, match="disk on fire"):
        fail()
    assert path.read_text() == "first"
    assert os.listdir(path.parent) == ["file.txt"]


def test_json_of_arrays_and_numbers_that_are_none(tmp_path):
    value = {"a": np.float32(1.5), "b": jnp.arange(3), "c": (math.inf, math.nan), 4: tmp_path}
    path = artefacts.write_json(tmp_path / "x.json", value)
    expected = {"a": 1.5, "b": [0, 1, 2], "c": [None, None], "4": str(tmp_path)}
    assert json.loads(path.read_text()) == expected
    with pytest.raises(TypeError, match="object cannot be written"):
        artefacts.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == expected


# ---- metrics.jsonl and TensorBoard


def test_scalars_reach_both_files(tmp_path):
    with monitoring.MetricWriter(tmp_path) as writer:
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
    with monitoring.MetricWriter(tmp_path) as writer:
        for step in range(6):
            writer.scalars(step, {"loss": step / 2})
    with open(writer.path, "a") as file:
        file.write(torn)
    assert [e["step"] for e in monitoring.read_metrics(tmp_path)] == list(range(6))
    with monitoring.MetricWriter(tmp_path) as again:
        again.truncate_after(3)
        again.scalars(4, {"loss": 9})
    entries = monitoring.read_metrics(again.path)
    assert [e["step"] for e in entries] == [0, 1, 2, 3, 4]
    assert entries[-1]["loss"] == 9
    assert entries[-1]["time"] >= entries[-2]["time"]
    purged = [e.step for e in _events(tmp_path / "events") if e.HasField("session_log")]
    assert 4 in purged


def test_time_goes_on_from_the_earlier_process(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time": 500.0, "loss": 1.0}\n')
    with monitoring.MetricWriter(tmp_path) as writer:
        writer.scalars(2, {"loss": 0.5})
    assert monitoring.read_metrics(tmp_path)[1]["time"] >= 500


def test_a_bad_line_in_the_middle_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2"):
        monitoring.read_metrics(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n[2]\n')
    with pytest.raises(ValueError, match=r"line 2.*\[2\]"):
        monitoring.read_metrics(tmp_path)
    with pytest.raises(FileNotFoundError):
        monitoring.read_metrics(tmp_path / "nowhere.jsonl")


def test_an_inactive_writer_writes_nothing(tmp_path):
    with monitoring.MetricWriter(tmp_path / "run", active=False) as writer:
        writer.scalars(1, {"loss": 1})
        writer.images(1, {"a": np.zeros((2, 2, 1))})
        writer.truncate_after(0)
    assert list(tmp_path.iterdir()) == []


# ---- time


def test_chronometer_leaves_out_what_pauses_it():
    clock = Clock()
    watch = monitoring.Chronometer(clock)
    assert math.isnan(watch.eta(10))
    with watch.pause("compile"):
        clock.now += 30
    clock.now += 4
    watch.advance(steps=2, signals=20)
    with watch.pause("evaluate"):
        clock.now += 5
        with watch.pause("compile"):
            clock.now += 7
        clock.now += 1
    assert watch.summary() == {"run": 4, "compile": 37, "evaluate": 6}
    assert watch.total() == 47
    assert watch.signals_per_second() == 5
    assert watch.eta(10) == 16
    assert watch.eta(1) == 0


def test_chronometer_survives_a_restart():
    clock = Clock()
    first = monitoring.Chronometer(clock)
    clock.now += 8
    first.advance(steps=4, signals=4)
    with first.pause("compile"):
        clock.now += 2
    state = json.loads(json.dumps(first.state()))
    clock.now += 1000  # the machine was away
    second = monitoring.Chronometer(clock)
    second.restore(state)
    assert math.isnan(second.eta(6))
    with second.pause("compile"):
        clock.now += 3
    clock.now += 1
    second.advance(steps=1, signals=10)
    assert second.steps == 5
    assert second.summary() == {"run": 9, "compile": 5}
    assert second.signals_per_second() == 10  # this process's rate, not the earlier one's
    assert second.eta(8) == 3


def test_a_pause_ends_when_its_body_raises():
    clock = Clock()
    watch = monitoring.Chronometer(clock)

    def evaluate():
        with watch.pause("evaluate"):
            clock.now += 2
            raise RuntimeError

    with pytest.raises(RuntimeError):
        evaluate()
    clock.now += 1
    assert watch.summary() == {"run": 1, "evaluate": 2}


# ---- the progress line


def test_progress_is_rewritten_on_a_terminal():
    clock, stream = Clock(), Terminal()
    with monitoring.Progress(100, stream=stream, clock=clock) as progress:
        progress.update(1, loss=0.5, psnr=12.345, signals_per_second=12345.0, eta=75.0)
        progress.update(2, loss=0.4)  # too soon to be worth a write
        clock.now += 1
        progress.update(50, loss=0.25)
        progress.message("saved")
        progress.update(100, loss=0.125)
    text = stream.getvalue()
    shown = "step   1/100  loss 5.000e-01  PSNR 12.35 dB  12.3k signals/s  ETA 1:15 min"
    assert text.startswith("\r" + shown[: len(text)])
    assert "step   2/100" not in text
    assert "step  50/100  loss 2.500e-01 " in text  # padded over what stood there
    assert text.count("\n") == 2  # the message and the end
    assert text.rstrip().endswith("step 100/100  loss 1.250e-01")


def test_progress_elsewhere_is_plain_lines_now_and_then():
    clock, stream = Clock(), io.StringIO()
    with monitoring.Progress(4, stream=stream, every=10, clock=clock) as progress:
        for step in range(1, 5):
            progress.update(step, loss=math.nan)
            clock.now += 6
    assert stream.getvalue() == ("step 1/4  loss nan\nstep 3/4  loss nan\nstep 4/4  loss nan\n")


def test_an_inactive_progress_is_silent():
    stream = io.StringIO()
    with monitoring.Progress(1, stream=stream, active=False) as progress:
        progress.update(1, loss=1.0)
        progress.message("hello")
    assert stream.getvalue() == ""


# ---- devices


def test_device_summary_says_what_runs_where():
    mesh = jax.make_mesh((1, 1), ("data", "expert"))
    lines = monitoring.device_summary(
        mesh,
        {"dictionary": 1_500_000, "router": 2500},
        config_path="run/config.json",
    )
    text = "\n".join(lines)
    assert "mesh data 1 x expert 1" in text
    assert "1.5M: dictionary 1.5M, router 2.5k" in text
    assert "run/config.json" in text
    assert len(monitoring.device_summary(mesh, {"dictionary": 7})) == 2
