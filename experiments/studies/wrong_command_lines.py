"""Command lines that are wrong, drawn from every key of every config, and what is said of them.

Each goes in this process through what the installed command goes through, up to the first number of
a model that would be drawn. One that is wrong ends in one line and exit status 2, and leaves
nothing where it would have written; one that goes on is among `RIGHT`, each with its reason.
"""

import collections
import contextlib
import dataclasses
import importlib
import io
import os
import random
import re
import signal
import time
import traceback
import unittest.mock
from pathlib import Path

from absl import flags, logging

from nid_jax import cli
from nid_jax.training.loop import Trainer

CONFIGS = tuple(
    f"{name}:smoke" for name in ("image", "inpainting", "video", "ct", "mri", "sdf", "fields")
)
# Of every kind of value: what is typed in its place.
NUMBERS = {"nan": "nan", "infinite": "inf", "negative": "-1", "huge": "1e30", "zero": "0"}
WHOLE = {"negative": "-1", "huge": "10000000", "beyond": "99999999999999999999", "zero": "0"}
KINDS = {
    bool: {"word": "perhaps", "empty": "", "number": "2"},
    int: {**WHOLE, "part": "1.5", "word": "many", "empty": "", "nan": "nan"},
    float: {**NUMBERS, "minus infinite": "-inf", "word": "much", "empty": ""},
    str: {"word": "qwertz", "empty": "", "scheme": "s3://there", "number": "-1"},
    tuple: {
        "one": "(1,)",
        "five": "(1,2,3,4,5)",
        "reversed": "(2,1)",
        "zeros": "(0,0)",
        "negative": "(-3,-2)",
        "nan": "(float('nan'),1.0)",
        "infinite": "(1e999,1.0)",
        "words": "('a','b')",
        "huge": "(10000000,10000000)",
        "nested": "((1,0),(1,0))",
        "number": "7",
        "unclosed": "(1,",
    },
}
# Two keys that do not go together, and keys of a mode that are wrong in another.
PAIRS = (
    ("image:smoke", "dictionary.kind=independent", "dictionary.heads=components"),
    ("image:smoke", "train.codes=joint", "router.kind=none"),
    ("image:smoke", "train.codes=sparse_varpro", "router.kind=none"),
    ("image:smoke", "router.kind=codebook", "train.codes=varpro"),
    ("image:smoke", "dictionary.heads=waves", "router.top_k=0"),
    ("image:smoke", "fit.solver=omp", "fit.top_k=0"),
    ("image:smoke", "fit.solver=ridge", "fit.top_k=2"),
    ("image:smoke", "fit.solver=gaussian", "prior.num_signals=0"),
    ("image:smoke", "fit.solver=ridge", "fit.uncertainty=true"),
    ("image:smoke", "train.optimizer.name=none", "train.steps=3"),
    ("image:smoke", "fit.solver=surface", "fit.split=test"),
    ("image:smoke", "mesh.data=3", "mesh.expert=5"),
    ("image:smoke", "data.crops=4", "data.resize=true"),
    ("image:smoke", "data.layout=SHW", "data.gray=true"),
    ("ct:smoke", "fit.refine.tv=0", "fit.refine.lam=0"),
    ("ct:smoke", "fit.refine.kind=grid", "fit.refine.bounds=(1,0)"),
    ("video:smoke", "data.time=coordinate", "fit.refine.kind=atoms"),
    ("sdf:smoke", "fit.surface.truncation=0.001", "fit.solver=surface"),
    ("sdf:smoke", "router.kind=point", "train.steps=5"),
)
# Seconds after which a command counts as one that hangs.
_PATIENCE = 20


@dataclasses.dataclass(frozen=True)
class Case:
    """A command line: NAME:VARIANT of the config, further words, and what is wrong with them."""

    config: str
    words: tuple[str, ...]
    kind: str

    @property
    def key(self) -> str:
        """The key of the config that was typed, '' where none was."""
        found = re.match(r"--config\.([^=]+)=", self.words[-1])
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of it: 'refused', 'goes on', 'traceback', 'hangs' or 'wrote', and the words."""

    case: Case
    what: str
    said: str
    seconds: float


class _GoesOn(BaseException):
    """A command came to where work begins."""


class _Hangs(BaseException):
    """A command took too long to be refused."""


def config_of(name):
    """The config NAME:VARIANT."""
    name, _, variant = name.partition(":")
    return importlib.import_module(f"nid_jax.configs.{name}").get_config(variant)


def keys_of(config):
    """(dotted key, value) of a config."""
    for key, value in sorted(config.to_dict().items()):
        yield from _leaves(key, value)


def _leaves(key, value):
    if isinstance(value, dict):
        for name, inner in sorted(value.items()):
            yield from _leaves(f"{key}.{name}", inner)
    else:
        yield key, value


def every_case(names=CONFIGS):
    """All cases there are, in order."""
    for name in names:
        for key, value in keys_of(config_of(name)):
            for kind, typed in KINDS[type(value)].items():
                yield Case(name, (f"--config.{key}={typed}",), f"{type(value).__name__} {kind}")
            yield Case(name, (f"--config.{key}x=1",), "unknown key")
            yield Case(name, (f"--config.{key}.x=1",), "key of a value")
    for name, *keys in PAIRS:
        if name in names:
            yield Case(name, tuple(f"--config.{key}" for key in keys), "pair")
    for word, kind in (
        ("--mode=trian", "mode"),
        ("--mode=", "mode"),
        ("--mode=fit", "nothing there"),
        ("--mode=eval", "nothing there"),
        ("--mode=render", "nothing there"),
        ("--mode=interpolate", "nothing there"),
        ("--mode=nearest", "nothing there"),
        ("--mode=sample", "nothing there"),
        ("--checkpoint=nowhere", "flag of another mode"),
        ("--distributed", "flag of another mode"),
        ("--modes=run", "unknown flag"),
        ("--config.train", "group"),
        ("--config.train=5", "group"),
        ("run", "word"),
    ):
        yield Case(names[0], (word,), kind)


def drawn(count, seed=0, names=CONFIGS):
    """So many different cases, the rarest kinds before the others."""
    generator = random.Random(seed)
    kinds = collections.defaultdict(list)
    for case in every_case(names):
        kinds[case.kind].append(case)
    for cases in kinds.values():
        generator.shuffle(cases)
    found = []
    while len(found) < count and any(kinds.values()):
        for cases in kinds.values():
            if cases and len(found) < count:
                found.append(cases.pop())
    return found


def outcome(case, folder):
    """What becomes of a command line whose workdir is in an empty folder."""
    argv = ["main.py", f"--config={case.config}", f"--workdir={folder / 'run'}", *case.words]
    values = flags.FlagValues()
    out, err = io.StringIO(), io.StringIO()
    start, what, said = time.perf_counter(), "done", ""
    verbosity = logging.get_verbosity()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _stopping():
            cli.define_flags(values, argv)
            cli.main(cli.parse(argv, values), values)
    except _GoesOn:
        what = "goes on"
    except _Hangs:
        what = "hangs"
    except SystemExit as leaving:
        lines = [line for line in err.getvalue().splitlines() if not line.startswith("note: ")]
        said = "\n".join(lines)
        one = len(lines) == 1 and lines[0].startswith("error: ")
        what = "refused" if leaving.code == 2 and one else "traceback"
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = "traceback"
        said = f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
    finally:
        logging.set_verbosity(verbosity)
    if what == "goes on":
        said = "; ".join(line for line in err.getvalue().splitlines() if line.startswith("note: "))
    if what == "refused" and os.listdir(folder):
        what, said = "wrote", f"{said} {os.listdir(folder)}"
    return Outcome(case, what, said, time.perf_counter() - start)


@contextlib.contextmanager
def _stopping():
    """Commands inside end where the first number of a model would be drawn, or after a while."""

    def too_long(number, frame):
        raise _Hangs

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(_PATIENCE)
    try:
        with unittest.mock.patch.object(Trainer, "_draw", side_effect=_GoesOn):
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
