"""Command lines that are wrong, drawn from every key of every config, and what is said of them.

Each goes in this process through what the installed command goes through, up to the first number of
a model that would be drawn. One that is wrong ends in one line and exit status 2, and leaves
nothing where it would have written; one that goes on is among `RIGHT`, each with its reason.
"""

import collections
import contextlib
import dataclasses
import fnmatch
import importlib
import io
import math
import random
import re
import shutil
import signal
import tempfile
import time
import traceback
import unittest.mock
from pathlib import Path

from absl import flags, logging

from nid_jax import cli
from nid_jax.fitting import code_space, scoring
from nid_jax.fitting.fit import Fit
from nid_jax.neural_dictionary import NeuralDictionary
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
# What goes on, and rightly so: a pattern of keys, one of kinds, and why.
RIGHT = (
    ("*", "* zero", "0 is off, all, none, or as many as there are"),
    ("*seed", "int huge", "any seed is one"),
    ("train.*_every", "int huge", "never, within the steps there are"),
    ("train.optimizer.lr_warmup_steps", "int huge", "warms up all the time"),
    ("train.steps", "int huge", "as long as one likes; it may be stopped and resumed"),
    ("train.warmup_epochs", "int huge", "dense all the time"),
    ("dictionary.components.rounds", "int huge", "may be stopped and resumed"),
    ("fit.*.*steps", "int huge", "at most so many; it may be stopped"),
    ("fit.surface.iterations", "int huge", "at most so many"),
    ("fit.refine.rank", "int huge", "at most as many as there are signals"),
    ("fit.num_pictures", "int huge", "at most as many as there are signals"),
    ("checkpoint.keep_*", "int huge", "all are kept"),
    ("render.chunk", "int huge", "all points at a time, at most those there are"),
    ("data.video.st[oe]p", "int huge", "at most the frames there are"),
    ("data.augment.max_shift", "int huge", "at most what the picture has"),
    ("data.corrupt.colour_shift", "float negative", "darker"),
    ("operator.parallel_beam.offset", "float negative", "to the other side"),
    ("operator.parallel_beam.centre", "tuple *", "(row, column), anywhere"),
    ("dictionary.components.shrinkage", "float negative", "below 0 chooses"),
    ("data.range", "tuple negative", "(low, high) with low < high"),
    ("fit.refine.bounds", "tuple negative", "(low, high) with low < high"),
    ("data.size", "tuple one", "one number stands for every axis"),
    ("data.size", "tuple number", "one number stands for every axis"),
    ("dictionary.embedding.counts", "tuple reversed", "functions along each axis"),
    ("data.crop", "str empty", "none"),
    ("fit.name", "str word", "any name"),
    ("data.root", "str empty", "of a source without files"),
    ("data.layout", "str empty", "guesses"),
    ("data.kspace*", "str empty", "guesses"),
    ("data.sinogram*", "str empty", "guesses"),
    ("data.angle*", "str empty", "guesses"),
    ("data.cache", "str *", "a folder"),
    ("dictionary.components.errors", "str empty", "chooses"),
    ("loss.compat", "str empty", "none"),
    ("eval.lpips", "str empty", "without"),
)
# Compiled programs would be kept in whatever folder it names, of all that runs here afterwards.
_NOT_TYPED = ("compilation_cache",)
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


# Where work begins.
_BEGINNINGS = (
    (Trainer, "_draw"),
    (NeuralDictionary, "fit_collection"),
    (NeuralDictionary, "sample"),
    (Fit, "render"),
    (code_space, "nearest"),
    (scoring, "reconstruct"),
)


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
            if key in _NOT_TYPED:
                continue
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
        ("--modes=run", "unknown flag"),
        ("--config.train", "group"),
        ("--config.train=5", "group"),
        ("run", "word"),
    ):
        yield Case(names[0], (word,), kind)


def drawn(count, seed=0, names=CONFIGS):
    """So many different cases, of every kind about as many."""
    generator = random.Random(seed)
    kinds = collections.defaultdict(list)
    for case in every_case(names):
        kinds[case.kind].append(case)
    for cases in kinds.values():
        generator.shuffle(cases)
    found, turns = [], list(kinds.values())
    generator.shuffle(turns)
    while len(found) < count and any(turns):
        for cases in turns:
            if cases and len(found) < count:
                found.append(cases.pop())
    return found


def trained_cases():
    """Cases for a workdir that holds a run of image:smoke: values of other modes than run."""
    config = config_of("image:smoke")
    for mode, groups in (
        ("fit", ("fit", "data", "render", "mesh")),
        ("render", ("render",)),
        ("interpolate", ("fit.interpolate", "render")),
        ("nearest", ("fit.nearest",)),
        ("sample", ("sample", "render")),
        ("eval", ("fit",)),
    ):
        for key, value in keys_of(config):
            if any(key.startswith(f"{group}.") for group in groups):
                for kind, typed in KINDS[type(value)].items():
                    words = (f"--mode={mode}", f"--config.{key}={typed}")
                    yield Case("image:smoke", words, f"{type(value).__name__} {kind}")


def reason(outcome):
    """Why a command goes on rightly, '' where it does not."""
    case = outcome.case
    if f" {case.key} " in outcome.said.replace(",", " ").replace(";", " "):
        return "said not to be used"
    for keys, kinds, why in RIGHT:
        if fnmatch.fnmatchcase(case.key, keys) and fnmatch.fnmatchcase(case.kind, kinds):
            return why
    return ""


def faults(outcomes):
    """Those that were neither refused in one line nor go on rightly."""
    wrong = [one for one in outcomes if one.what not in ("refused", "goes on")]
    return wrong + [one for one in outcomes if one.what == "goes on" and not reason(one)]


def part(count=600, seed=0, minutes=math.inf):
    """Draws cases and tries them in a folder of its own, for so long. -> outcomes."""
    found = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        begun = time.monotonic()
        for number, case in enumerate(drawn(count, seed)):
            if time.monotonic() - begun > 60 * minutes:
                break
            place = Path(folder) / f"{number}"
            place.mkdir()
            found.append(outcome(case, place))
            shutil.rmtree(place)
    return found


def part_of_trained(count=200, seed=0, minutes=math.inf):
    """Trains a small run, and tries cases of other modes on it, as `part` does. -> outcomes."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        words = ["--config=image:smoke", f"--workdir={folder}/run"]
        values = flags.FlagValues()
        cli.define_flags(values, ["main.py", *words])
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            cli.main(cli.parse(["main.py", *words], values), values)
        cases = list(trained_cases())
        random.Random(seed).shuffle(cases)
        found, begun = [], time.monotonic()
        for case in cases[:count]:
            if time.monotonic() - begun > 60 * minutes:
                break
            found.append(outcome(case, Path(folder)))
        return found


def _files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def outcome(case, folder):
    """What becomes of a command line with the workdir folder/run."""
    argv = ["main.py", f"--config={case.config}", f"--workdir={folder / 'run'}", *case.words]
    before = _files(folder)
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
    changed = {path.name for path, _ in set(_files(folder).items()) ^ set(before.items())}
    if what == "refused" and changed:
        what, said = "wrote", f"{said} {sorted(changed)}"
    return Outcome(case, what, said, time.perf_counter() - start)


@contextlib.contextmanager
def _stopping():
    """Commands inside end where work would begin, or after a while."""

    def too_long(number, frame):
        raise _Hangs

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(_PATIENCE)
    try:
        with contextlib.ExitStack() as stack:
            for place, name in _BEGINNINGS:
                stack.enter_context(unittest.mock.patch.object(place, name, side_effect=_GoesOn))
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def summary(outcomes):
    """(what, how many) of outcomes, those that go on told apart by whether rightly."""
    wrong = faults(outcomes)
    counts = collections.Counter(
        "goes on, wrongly" if one.what == "goes on" and one in wrong else one.what
        for one in outcomes
    )
    return sorted(counts.items())


if __name__ == "__main__":
    for tried in (part(), part_of_trained()):
        print(len(tried), "command lines:", summary(tried))
        for one in faults(tried):
            print(one.what, one.case.config, *one.case.words, "|", one.said[:200])
