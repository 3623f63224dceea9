"""Train a neural implicit dictionary, fit unseen signals with it, render them.

    python main.py --config=configs/image.py --workdir=DIR [--mode=run|train|fit|eval|render]
"""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from nid_jax import tasks
from nid_jax.run import commands, sharding
from nid_jax.run.workdir import Workdir

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "FILE[:variant], such as configs/image.py:cpu.", lock_config=True
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, fits, report.html.")
CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Workdir whose dictionary fit, eval and render take; default: --workdir."
)
MODE = flags.DEFINE_enum("mode", "run", list(commands.MODES), "What to do.")
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join the other processes of this run through jax.distributed."
)

# What the person who typed the command can mend; anything else is a fault of ours, with traceback.
MENDABLE = (ValueError, FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)


def complain(message):
    """One line on standard error, and the exit status of a command that was typed wrong."""
    lines = [line.strip() for line in str(message).strip().splitlines() if line.strip()]
    print("error: " + " ".join(lines), file=sys.stderr)
    sys.exit(2)


def parse(argv):
    """Parse flags; an unknown flag, key or value is one line, with the nearest name."""
    try:
        rest = flags.FLAGS(argv)
        if CONFIG.value is None:
            complain("--config is missing; such as --config=configs/image.py")
        if WORKDIR.value is None:
            complain("--workdir is missing; the folder that takes checkpoints, fits and the report")
    except (AttributeError, KeyError) as error:
        complain(f"--config: unknown key {str(error.args[0]).strip(chr(34))}")
    except OSError:
        wanted = next((a.partition("=")[2] for a in argv if a.startswith("--config=")), "")
        complain(f"--config={wanted}: cannot be read; such as --config=configs/image.py")
    except flags.Error as error:
        # A config file that raises is quoted with its traceback; the last line says what is wrong.
        complain(str(error).strip().rpartition("Error: ")[2])
    if len(rest) > 1:
        complain(f"unexpected argument {rest[1]!r}; options are --name=value")
    return rest


def main(argv):
    """Dispatch on --mode."""
    del argv
    logging.set_verbosity(logging.WARNING)
    try:
        sharding.initialise_distributed(DISTRIBUTED.value)
        workdir = Workdir(WORKDIR.value)
        source = Workdir(CHECKPOINT.value, read_only=True) if CHECKPOINT.value else workdir
        context = commands.Context(tasks.build, CONFIG.value, workdir, source)
        commands.MODES[MODE.value](context)
    except MENDABLE as error:
        logging.debug("traceback", exc_info=True)
        complain(error)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
