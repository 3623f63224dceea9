"""The progress line, on a terminal and elsewhere."""

import io
import math

from nid_jax.reporting.progress import Counted, Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_rewritten_on_a_terminal(clock):
    stream = Terminal()
    with Progress(100, stream=stream, clock=clock) as progress:
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


def test_progress_elsewhere_is_plain_lines_now_and_then(clock):
    stream = io.StringIO()
    with Progress(4, stream=stream, every=10, clock=clock) as progress:
        for step in range(1, 5):
            progress.update(step, loss=math.nan)
            clock.now += 6
    assert stream.getvalue() == ("step 1/4  loss nan\nstep 3/4  loss nan\nstep 4/4  loss nan\n")


def test_an_inactive_progress_is_silent():
    stream = io.StringIO()
    with Progress(1, stream=stream, active=False) as progress:
        progress.update(1, loss=1.0)
        progress.message("hello")
    assert stream.getvalue() == ""


def test_what_is_counted_is_said_now_and_then(clock):
    stream = io.StringIO()
    with Counted("fitted", stream=stream, every=10, clock=clock) as counted:
        for done in range(0, 100, 10):
            counted.update(done, 90)
            clock.now += 6
    lines = stream.getvalue().splitlines()
    # Each of ten took 6 seconds; the first line comes with the first that are done.
    assert lines[0] == "fitted 10/90  ETA 48.0 s"
    assert [line.split()[1] for line in lines] == ["10/90", "30/90", "50/90", "70/90", "90/90"]
    assert lines[-1] == "fitted 90/90"


def test_what_is_short_is_not_counted_aloud(clock):
    stream = io.StringIO()
    with Counted("fitted", stream=stream, clock=clock) as counted:
        for done in range(3):
            counted.update(done, 2)
            clock.now += 0.5
    assert stream.getvalue() == ""


def test_another_thing_that_is_counted_has_a_time_of_its_own(clock):
    stream = io.StringIO()
    with Counted("round", stream=stream, clock=clock, every=1) as counted:
        counted.update(1, 3)
        clock.now += 100
        for done in (1, 2, 3):
            counted.update(done, 4, "shrinkage")
            clock.now += 3
        for done in (2, 3):
            counted.update(done, 3)
            clock.now += 50
    assert stream.getvalue().splitlines() == [
        "shrinkage 2/4  ETA 6 s",
        "shrinkage 3/4  ETA 3 s",
        "round 3/3",
    ]
