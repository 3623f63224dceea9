"""Image regression: a dictionary and its solvers beside one network per image, PCA and DCT.

    python experiments/image_regression.py --scale=smoke|cpu|paper --output=DIR

Every method fits the same unseen signals in one run on one machine. Writes DIR/table.md,
metrics.json and figure.png; the dictionaries it trained stay in DIR/dictionaries.
"""

import dataclasses
import sys
import time
from pathlib import Path

import image_methods
from absl import app, flags, logging
from image_study import Study, say, setting_of
from image_tables import write

from nid_jax.reporting import tables

DATA = ("faces", "photos", "celeb_a")

FLAGS = flags.FLAGS


def define_flags():
    """Define the options on the command line's own values."""
    flags.DEFINE_enum("scale", "cpu", ["smoke", "cpu", "paper"], "How large, how long.")
    flags.DEFINE_string("output", "runs/image_regression", "Folder of the results.")
    flags.DEFINE_list("data", list(DATA), f"Data sets: {', '.join(DATA)}.")
    flags.DEFINE_string("celeb_a", "", "Folder of CelebA; left out where it is not found.")
    flags.DEFINE_string(
        "patches", "", "An .npz file of images `train` and `test` [S, H, W, C]: K = 32 of E = 256."
    )


def run(output):
    """All data sets that are asked for and there. -> studies, notes on those left out."""
    unknown = [name for name in FLAGS.data if name not in DATA]
    if unknown:
        raise ValueError(f"--data={unknown[0]}: allowed: {', '.join(DATA)}")
    if FLAGS.patches and not Path(FLAGS.patches).is_file():
        raise FileNotFoundError(f"--patches={FLAGS.patches}: no such file")
    studies, notes = [], []
    for name in FLAGS.data:
        setting = setting_of(name, FLAGS.scale)
        if name == "celeb_a":
            setting = dataclasses.replace(
                setting, changes={**setting.changes, "data.root": FLAGS.celeb_a}
            )
        try:
            study = Study(name, setting, output)
        except (ValueError, FileNotFoundError) as error:
            # The one data set that need not be there, unless a folder was given.
            if name != "celeb_a" or FLAGS.celeb_a:
                raise
            notes.append(f"CelebA is left out: {error}")
            say(notes[-1])
            continue
        image_methods.transforms(study)
        image_methods.dictionaries(study)
        image_methods.per_image_networks(study)
        image_methods.learned_start(study)
        studies.append(study)
        # What a long run has found is on disk before the next data set begins.
        write(output, studies, notes, FLAGS.scale)
    if FLAGS.patches:
        studies.append(image_methods.patches(FLAGS.patches, FLAGS.scale, output))
    return studies, notes


def main(argv):
    del argv
    logging.set_verbosity(logging.WARNING)
    start = time.perf_counter()
    output = Path(FLAGS.output)
    try:
        studies, notes = run(output)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    write(output, studies, notes, FLAGS.scale)
    say(f"done in {tables.format_duration(time.perf_counter() - start)}: {output / 'table.md'}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
