"""Every file of a workdir damaged, one at a time, and what each mode makes of it.

A mode is held to the numbers and pictures that it leaves in an honest copy; where it says that a
damaged checkpoint was skipped, in one whose last checkpoint was never written. Or it says in one
line what it cannot read, and ends with 2.
"""

import contextlib
import hashlib
import io
import json
import logging as python_logging
import random
import shutil

import numpy as np
from absl import flags, logging

from nid_jax import cli
from studies import fault_modes
from studies import fault_trials as trials

_STEPS, _FURTHER = 6, 9
MODES = {
    "train": (f"--config.train.steps={_FURTHER}",),
    "fit": ("--config.fit.name=again",),
    **dict.fromkeys(("eval", "render", "interpolate", "nearest", "sample"), ()),
}
KINDS = ("half", "none", "flipped", "wrong JSON")
_SKIPPED = "damaged checkpoint skipped"
# What holds no word of a run for a mode to read.
_ASIDE = (".png", ".html")


def _words(workdir):
    size = trials.Size(steps=_STEPS)
    words = trials.arguments(size, workdir, workdir, "")
    words = [w for w in words if not w.startswith(("--mode", "--config.compilation_cache"))]
    return [*words, "--config.train.checkpoint_every=3", "--config.fit.solver=ridge"]


def called(words):
    """A command line in this process. -> (exit status, standard error with the log)."""
    argv = ["main.py", *words]
    values, err = flags.FlagValues(), io.StringIO()
    cli.define_flags(values, argv)
    heard = python_logging.StreamHandler(err)
    verbosity, formatter = logging.get_verbosity(), logging.get_absl_handler().formatter
    logging.get_absl_logger().addHandler(heard)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
            cli.main(cli.parse(argv, values), values)
        return 0, err.getvalue()
    except SystemExit as leaving:
        return leaving.code, err.getvalue()
    except Exception as error:
        return 1, f"{type(error).__name__}: {error}"
    finally:
        logging.get_absl_logger().removeHandler(heard)
        logging.set_verbosity(verbosity)
        logging.get_absl_handler().setFormatter(formatter)


def damaged(honest, kind):
    """Content of a file after damage of one of KINDS."""
    if kind == "half":
        return honest[: len(honest) // 2]
    if kind == "none":
        return b""
    if kind == "wrong JSON":
        return json.dumps({"other": [1, None, "x"]}).encode()
    changed = bytearray(honest)
    changed[len(changed) // 2] ^= 1
    return bytes(changed)


def _times(workdir):
    return {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}


def _left(mode, workdir, before):
    """What a mode wrote, without times: name -> numbers or a checksum."""
    if mode == "train":
        return {"state": repr(trials.state_of(workdir))}
    written = {p for p, time in _times(workdir).items() if before.get(p) != time}
    names = {str(path.relative_to(workdir)) for path in written}
    found = {
        name: value
        for name, value in fault_modes.numbers_of(workdir).items()
        if name.split(":")[0] in names and name.startswith(("fits", "samples"))
    }
    for path in written:
        name = str(path.relative_to(workdir))
        if path.suffix in (".png", ".gif") and name.startswith(("fits", "samples")):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _same(found, expected):
    return found.keys() == expected.keys() and all(
        np.array_equal(found[name], value, equal_nan=value.dtype.kind == "f")
        if isinstance(value, np.ndarray | np.generic)
        else found[name] == value
        for name, value in expected.items()
    )


def _done(mode, workdir):
    """(exit status, what was said, what was left) of a mode."""
    before = _times(workdir)
    status, err = called([*_words(workdir), f"--mode={mode}", *MODES[mode]])
    return status, err, _left(mode, workdir, before) if status == 0 else {}


def _wrong(status, err, left, references):
    if status == 0:
        if _same(left, references[_SKIPPED in err]):
            return ""
        expected = references[_SKIPPED in err]
        differ = [n for n in {*left, *expected} if not _same_entry(left, expected, n)]
        return f"another result, with nothing but this said: {err!r}: {sorted(differ)[:3]}"
    lines = [
        line
        for line in err.splitlines()
        if line and not line.startswith("note: ") and _SKIPPED not in line
    ]
    one = status == 2 and len(lines) == 1 and lines[0].startswith("error: ")
    return "" if one else f"exit status {status}: {err[-300:]!r}"


def _same_entry(left, expected, name):
    if (name in left) != (name in expected):
        return False
    return _same({name: left[name]}, {name: expected[name]})


def damage(size, folder):
    """Files of a workdir, damaged in four ways, and every mode afterwards."""
    honest = folder / "honest"
    status, err = called([*_words(honest), "--mode=run"])
    if status:
        raise RuntimeError(f"exit status {status}: {err[-2000:]}")
    references = {}
    for mode in MODES:
        pair = []
        for name in ("whole", "earlier"):
            place = shutil.copytree(honest, folder / f"{mode}-{name}")
            if name == "earlier":
                shutil.rmtree(place / "checkpoints" / str(_STEPS))
            status, err, left = _done(mode, place)
            if status or not left:
                raise RuntimeError(f"{mode}, exit status {status}: {err[-2000:]}")
            pair.append(left)
        references[mode] = pair
    files = sorted(p for p in honest.rglob("*") if p.is_file() and p.suffix not in _ASIDE)
    cases = [(path, kind, mode) for path in files for kind in KINDS for mode in MODES]
    random.Random(4).shuffle(cases)
    wrongs, refused, skipped = {kind: [] for kind in KINDS}, 0, 0
    tried = trials.within(size.most_minutes, cases[: size.damages])
    for number, (path, kind, mode) in enumerate(tried):
        place = shutil.copytree(honest, folder / "damaged")
        name = path.relative_to(honest)
        (place / name).write_bytes(damaged(path.read_bytes(), kind))
        status, err, left = _done(mode, place)
        wrong = _wrong(status, err, left, references[mode])
        refused, skipped = refused + (status == 2), skipped + (_SKIPPED in err)
        trials.judge(wrongs[kind], wrong and f"{mode}, {name}: {wrong}", f"{number} {kind}")
        shutil.rmtree(place)
    hold = "each mode: the numbers and pictures of an honest workdir, or one line that says why not"
    words = f"of all: {refused} refused in one line, {skipped} from the checkpoint before"
    words += f"; {len(files)} files, {len(MODES)} modes"
    return [
        trials.row_of(f"a file of a workdir damaged: {kind}", hold, found, words)
        for kind, found in wrongs.items()
    ]
