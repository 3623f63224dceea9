"""Train a neural implicit dictionary, fit unseen signals with it, render them.

nid_jax --config=NAME[:VARIANT] --workdir=DIR [--mode=MODE] [--config.SECTION.KEY=VALUE ...]
"""

import errno
import io
import sys
from logging import Formatter

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from nid_jax import commands, configs, data, devices, notices, settings, tasks
from nid_jax.commands.context import Context
from nid_jax.files import REFUSALS, local
from nid_jax.running import joining, launching, processes
from nid_jax.storage import bucket_copy, shipped
from nid_jax.storage.workdir import Workdir
from nid_jax.tasks.unused import LEARNING

EXAMPLE = "such as --config=image"
OPTIONS = (
    *("config", "workdir", "checkpoint", "mode", "distributed"),
    *("coordinator", "num_processes", "process_id", "local_processes"),
)
# Errors of the system that whoever typed the command can do something about.
MENDABLE = {None, errno.ENOENT, *REFUSALS}
# What takes less memory, by mode.
SMALLER = {
    "train": "train.batch_size, train.points, dictionary.num_experts",
    "sample": "sample.count, render.chunk",
    **dict.fromkeys(("render", "interpolate"), "render.chunk, render.scale"),
}
SMALLER["run"] = f"{SMALLER['train']}, fit.batch_size"
# What a parser of flags says, and what a person needs to hear.
WANTED = {
    "invalid literal for int": "a whole number is wanted",
    "could not convert string to float": "a number is wanted",
    "Non-boolean argument": "true or false is wanted",
    "as tuple": "numbers in parentheses are wanted, such as '(25,25)'",
    "as a ConfigDict": "is a group of keys; give one of them, such as --config.train.steps=100",
}


def define_flags(values=flags.FLAGS, argv=None):
    """Define the options on `values`; `argv` is the command line that they will be read from."""
    here = {"flag_values": values}
    known = ", ".join(configs.names())
    configs.define_flag(f"NAME[:VARIANT] of {known}; or FILE.py[:VARIANT].", values, argv)
    flags.DEFINE_string("workdir", None, "Folder of the run, also gs:// or s3://.", **here)
    flags.DEFINE_string(
        "checkpoint", None, "Workdir, .safetensors or name of a dictionary; else --workdir.", **here
    )
    flags.DEFINE_enum("mode", "run", list(commands.MODES), "What to do.", **here)
    flags.DEFINE_bool("distributed", False, "Join the other processes of this run.", **here)
    flags.DEFINE_string(
        "coordinator", None, "HOST:PORT of process 0, where no cluster says.", **here
    )
    flags.DEFINE_integer("num_processes", None, "How many there are, beside --coordinator.", **here)
    flags.DEFINE_integer("process_id", None, "Which this one is, from 0.", **here)
    flags.DEFINE_integer(
        "local_processes", None, "Start so many processes here, to try out --distributed.", **here
    )
    # What --help shows are the options of the module that was started.
    for name in OPTIONS:
        values.register_key_flag_for_module(sys.argv[0], values[name])


def complain(message):
    """One line on standard error, and the exit status of a command that was typed wrong."""
    print("error:", notices.one_line(message), file=sys.stderr)
    sys.exit(2)


def parse(argv, values=flags.FLAGS):
    """Read the command line; an unknown flag, key or value is one line, with the nearest name."""
    try:
        rest = _read(argv, values)
        if values.config is None:
            complain(f"--config is missing; {EXAMPLE}")
        if not values.workdir:
            complain("--workdir is missing; the folder that takes checkpoints, fits and the report")
        if values.checkpoint == "":
            complain(
                "--checkpoint: ''; allowed: a workdir, FILE.safetensors or a dictionary's name"
            )
    except flags.Error as error:
        text = str(error).strip().removeprefix("flag ")
        wanted = next((WANTED[reason] for reason in WANTED if reason in text), None)
        complain(f"{text.partition(': ')[0]}: {wanted}" if wanted else text)
    if len(rest) > 1:
        complain(f"unexpected argument {rest[1]!r}; options are --name=value")
    return rest


def _read(argv, values):
    try:
        return values(argv)
    except SystemExit:
        # absl leaves with 1 once it has shown --help, which is what was asked for.
        sys.exit(0)


def main(argv, values=flags.FLAGS):
    """Dispatch on --mode; what the person who typed the command can mend is one line."""
    del argv
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
        logging.get_absl_handler().setFormatter(Formatter("%(levelname)s: %(message)s"))
    try:
        where = _place(values)
        if values.local_processes:
            sys.exit(launching.run(values.local_processes))
        launching.follow_parent()
        with joining.joined(where):
            _work(values)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        words = devices.exhausted(error)
        if not words:
            raise
        logging.info("traceback", exc_info=True)
        smaller = SMALLER.get(values.mode, "fit.batch_size, fit.num_signals")
        complain(f"{smaller}: memory does not hold what they ask for: {words}; allowed: less")
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in MENDABLE:
            raise
        logging.info("traceback", exc_info=True)
        if isinstance(error, OSError) and error.filename:
            complain(f"{error.filename}: {error.strerror}")
        else:
            complain(error)


def _place(values):
    """Where this process stands among several; None where it is alone. Raises ValueError."""
    places, count = ("coordinator", "num_processes", "process_id"), values.local_processes
    if count is not None and count < 1:
        raise ValueError(f"--local_processes={count}: allowed: whole numbers from 1")
    given = ["distributed"] * values.distributed
    given += [name for name in places if values[name].value is not None]
    if count is not None and given:
        raise ValueError(f"--local_processes={count}: allowed without --{given[0]}")
    return joining.place(values.distributed, *(values[name].value for name in places))


def _work(values):
    """What --mode says."""
    devices.use_single_precision()
    cache = values.config.get("compilation_cache", "")
    devices.use_compilation_cache(local(cache, "compilation_cache") if cache else "")
    if values.checkpoint and values.mode in LEARNING:
        others = ", ".join(mode for mode in commands.MODES if mode not in LEARNING)
        raise ValueError(
            f"--checkpoint={values.checkpoint}: --mode={values.mode} learns a dictionary "
            f"of its own; allowed with --mode={others}"
        )
    # Before anything is downloaded, or a dictionary read.
    settings.check(values.config)
    with (
        processes.heard(),
        notices.printed(),
        bucket_copy.worked_on(values.workdir, "--workdir") as folder,
    ):
        workdir = source = Workdir(folder, argument="--workdir")
        if values.checkpoint:
            source = _source(values.checkpoint)
        typed = frozenset(config_flags.get_override_values(values["config"]))
        context = Context(tasks.build, values.config, workdir, source, typed, mode=values.mode)
        with data.kept_in(workdir.root / "cache"):
            commands.MODES[values.mode](context)


def _source(path):
    """Where the dictionary lies: a workdir, or one file, which may be that of a folder of
    `save_pretrained` or of a dictionary that comes with nid_jax."""
    found = shipped.located(str(bucket_copy.downloaded(path, "--checkpoint")), "--checkpoint")
    if found.suffix == ".safetensors":
        return found
    return Workdir(found, read_only=True, argument="--checkpoint")


def guide() -> str:
    """The head of --help: what the command does, its modes and configs, where keys are told."""
    modes = [(name, _first_line(mode)) for name, mode in commands.MODES.items()]
    found = [(name, *configs.described(name)) for name in configs.names()]
    width = max(len(name) for name, *_ in (*modes, *found))
    lines = [__doc__.rstrip(), "", "Modes, --mode=run where none is given:"]
    lines += [f"  {name:{width}}  {words}" for name, words in modes]
    lines += ["", "Configs, and their variants:"]
    for name, words, variants in found:
        lines += [f"  {name:{width}}  {words}", f"  {'':{width}}    {', '.join(variants)}"]
    lines += [
        "",
        "Keys are explained where they stand, each by a line above it:",
        f"  {configs.FOLDER}/NAME.py, and the groups that all have in {configs.FOLDER / 'parts'}/",
        "DIR/config.json holds those of a run. A wrong key is answered with the nearest one.",
    ]
    return "\n".join(lines)


def _first_line(function):
    return function.__doc__.strip().partition("\n")[0]


def run():
    """The command: reads sys.argv, leaves with 0, or with 2 and one line."""
    define_flags()
    for stream in (sys.stdout, sys.stderr):
        # Names of files may hold bytes that no text has.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if any(word.lstrip("-").startswith("help") for word in sys.argv[1:]):
        sys.modules["__main__"].__doc__ = guide()
    app.run(main, flags_parser=parse)
