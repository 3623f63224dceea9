"""Where a process stands among several, and what is left out of what JAX says: none is joined."""

import io
import subprocess
import sys

import pytest

from nid_jax.running import joining, launching, sifting


def refused(*given, environment=None):
    with pytest.raises(ValueError, match=r"^(--|JAX_)") as excinfo:
        joining.place(*given, environment=environment or {})
    text = str(excinfo.value)
    assert "\n" not in text
    return text


def test_a_place_is_typed_or_said_by_the_environment_or_the_cluster_s():
    assert joining.place(False, None, None, None, {}) is None
    assert joining.place(False, None, None, None, {"JAX_PROCESS_ID": "1"}) is None
    assert joining.place(True, None, None, None, {}) == joining.Place()
    typed = joining.place(True, "host:80", 3, 2, {"JAX_PROCESS_ID": "7"})
    assert typed == joining.Place("host:80", 3, 2)
    said = {
        "JAX_COORDINATOR_ADDRESS": "[::1]:1234",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": "0",
    }
    assert joining.place(True, None, None, None, said) == joining.Place("[::1]:1234", 2, 0)
    assert joining.place(True, None, None, 1, said) == joining.Place("[::1]:1234", 2, 1)
    alone = {"JAX_COORDINATOR_ADDRESS": "host:1"}
    assert joining.place(True, None, None, None, alone) == joining.Place("host:1")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((False, "host:80", None, None), "--coordinator=host:80: allowed with --distributed"),
        ((False, None, None, 0), "--process_id=0: allowed with --distributed"),
        ((True, "host:80", None, None), "--coordinator=host:80: --num_processes or JAX_NUM_PROC"),
        ((True, None, 2, 1), "--coordinator or JAX_COORDINATOR_ADDRESS must be given too"),
        ((True, "host", 2, 1), "--coordinator=host: allowed: HOST:PORT of process 0"),
        ((True, "host:99999", 2, 1), "--coordinator=host:99999: allowed: HOST:PORT"),
        ((True, "host:80", 0, 0), "--num_processes=0: allowed: whole numbers from 1"),
        ((True, "host:80", 2, 2), "--process_id=2: allowed: whole numbers from 0 to 1"),
        ((True, "host:80", 2, -1), "--process_id=-1: allowed: whole numbers from 0 to 1"),
    ],
)
def test_options_that_do_not_go_together(given, words):
    assert words in refused(*given)


def test_variables_are_named_where_they_are_wrong():
    said = {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"}
    assert refused(True, None, None, None, environment=said).startswith("JAX_NUM_PROCESSES=two: ")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--local_processes=0"], "--local_processes=0: allowed: whole numbers from 1"),
        (["--local_processes=2", "--distributed"], "--local_processes=2: allowed without"),
        (
            ["--local_processes=2", "--process_id=0"],
            "--local_processes=2: allowed without --process_id",
        ),
        (["--num_processes=2"], "--num_processes=2: allowed with --distributed"),
    ],
)
def test_the_command_line_refuses_in_one_line(call, tmp_path, tiny, options, words):
    result = call(*tiny, f"--workdir={tmp_path / 'run'}", "--mode=train", *options)
    assert words in result.complaint()


def test_a_started_process_has_its_place_instead_of_the_option():
    words = ["main.py", "--a=1", "--local_processes", "3", "-local_processes=4", "--b"]
    command = launching.command_of(words, 3, 2, 5000)
    assert command[1:4] == ["main.py", "--a=1", "--b"]
    here = "--distributed --coordinator=127.0.0.1:5000 --num_processes=3 --process_id=2"
    assert command[4:] == here.split()


NATIVE = "E1128 17:35:30.765617   21748 {}:1520] words\n"
FATAL = (
    "F1128 17:35:30.764790   21665 client.h:80] Terminating process because the JAX distributed "
    "service detected fatal errors.\n"
)


def sifted(*lines):
    out = io.BytesIO()
    sifting.sift(io.BytesIO("".join(lines).encode()), out)
    return out.getvalue().decode()


def test_what_others_say_comes_through():
    lines = ("step 1\n", NATIVE.format("cuda_driver.cc"), "and more\n", "no end")
    assert sifted(*lines) == "".join(lines)


def test_the_service_is_not_heard():
    service = NATIVE.format("coordination_service.cc")
    lines = ("step 1\n", "[Gloo] Rank 0 is connected\n", service, "more of it\n")
    assert (
        sifted(*lines, NATIVE.format("gpu.cc"), "step 2\n")
        == "step 1\n" + NATIVE.format("gpu.cc") + "step 2\n"
    )


def test_an_abort_is_one_line_unless_python_said_it():
    stack = ("*** Check failure stack trace: ***\n", "    @ 0x1 absl::Log()\n")
    assert sifted("step 1\n", FATAL, *stack) == f"step 1\nerror: {sifting.LOST}\n"
    own = f"error: {sifting.LOST}\n"
    assert sifted(own, FATAL, *stack) == own
    assert sifted(FATAL, own, *stack) == own


def test_standard_output_is_pythons_alone(environment):
    """Gloo greets there, below Python, and others than Gloo may."""
    code = (
        "import os\n"
        "from nid_jax.running import sifting\n"
        "print('before')\n"
        "sifting.start()\n"
        "os.write(1, b'[Gloo] Rank 0 is connected to 1 peer ranks\\n')\n"
        "os.write(1, b'other\\n')\n"
        "print('mine \u00e9')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        timeout=60,
    )
    assert done.stdout.decode() == "before\nmine \u00e9\n"
    assert done.stderr == b"other\n"
