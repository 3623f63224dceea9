"""Image regression: a dictionary and its solvers beside one network per image, PCA and DCT.

    python experiments/image_regression.py --scale=smoke|cpu|paper --output=DIR

Every method fits the same unseen signals in one run on one machine. Writes DIR/table.md,
metrics.json and figure.png; the dictionaries it trained stay in DIR/dictionaries.
"""

import dataclasses
from pathlib import Path

from absl import flags, logging
from measuring import command
from measuring.command import clocked, say
from studies import image_methods
from studies.image_study import SETTINGS, Study, setting_of
from studies.image_tables import write

from nid_jax.reporting import tables


def studies_of(names, roots, patches, scale, output):
    """All data sets that are asked for and there. -> studies, notes on those left out.

    roots: {name: folder} of those that need not be there, '' where none was given.
    """
    unknown = [name for name in names if name not in SETTINGS]
    if unknown:
        raise ValueError(f"--data={unknown[0]}: allowed: {', '.join(SETTINGS)}")
    if patches and not Path(patches).is_file():
        raise FileNotFoundError(f"--patches={patches}: no such file")
    studies, notes = [], []
    for name in names:
        setting = setting_of(name, scale)
        if roots.get(name):
            changes = {**setting.changes, "data.root": roots[name]}
            setting = dataclasses.replace(setting, changes=changes)
        try:
            study = Study(name, setting, output)
        except (ValueError, FileNotFoundError) as error:
            # Some need not be there, unless a folder was given.
            if roots.get(name, name):
                raise
            notes.append(f"{setting.title} is left out: {error}")
            say(notes[-1])
            continue
        image_methods.transforms(study)
        image_methods.careful_transforms(study)
        image_methods.all_dictionaries(study)
        image_methods.per_image_networks(study)
        image_methods.learned_start(study)
        studies.append(study)
        # What a long run has found is on disk before the next data set begins.
        write(output, studies, notes, scale)
    if patches:
        studies.append(image_methods.patches(patches, scale, output))
    return studies, notes


def run(scale, output, names, celeb_a, fashion, patches):
    """Run the comparison."""
    logging.set_verbosity(logging.WARNING)
    roots = {"celeb_a": celeb_a, "fashion": fashion}
    found, seconds = clocked(studies_of, names, roots, patches, scale, output)
    write(output, *found, scale)
    say(f"done in {tables.format_duration(seconds)}: {output / 'table.md'}")


if __name__ == "__main__":
    DATA = flags.DEFINE_list("data", list(SETTINGS), f"Data sets: {', '.join(SETTINGS)}.")
    CELEB_A = flags.DEFINE_string("celeb_a", "", "Folder of CelebA; left out where not found.")
    FASHION = flags.DEFINE_string(
        "fashion", "", "Folder of Fashion-MNIST's idx files; left out where not found."
    )
    PATCHES = flags.DEFINE_string(
        "patches", "", "An .npz file of images `train` and `test` [S, H, W, C]: K = 32 of E = 256."
    )
    command.start(
        run, "image_regression", ("smoke", "cpu", "paper"), DATA, CELEB_A, FASHION, PATCHES
    )
