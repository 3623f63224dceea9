"""Write corrupted copies of any pictures, with their masks and the truth.

python -m nid_jax.data.corrupt --config=inpainting --output=DIR [--split=test]

config.data says which pictures, config.data.corrupt what becomes of them; any key may be given as
--config.data.corrupt.KEY=VALUE. DIR takes images/, masks/ (white: seen), truth/, 8-bit PNG files of
the same names, and corruption.json. nid_jax.data.corrupted reads them back.
"""

# The package itself must not import this file, or running it as a module would load it twice.

from nid_jax.running import stopping

if __name__ == "__main__":
    stopping.begin()  # what follows takes its time

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from nid_jax import notices
from nid_jax.data.corrupted import CorruptedCollection, CorruptedFiles, corrupt, open_corrupted
from nid_jax.data.splitting import SPLITS
from nid_jax.files import atomic_folder, local

__all__ = ["CorruptedCollection", "corrupt", "main", "open_corrupted", "write"]

_EXAMPLE = "such as --config=inpainting"


def write(config: ConfigDict, output: str | Path, split: str = "test") -> CorruptedCollection:
    """Corrupt every picture of one split of config.data and write the folder `output`.

    config: a whole config, of which `seed` and `data` with `data.corrupt` are read. The folder
    appears at once, when all is written: images/, masks/, truth/ and corruption.json.
    Returns the CorruptedCollection that was written, before rounding to 8 bits.
    Raises ValueError naming `output` when it is there and not empty, ValueError or
    FileNotFoundError for what config.data and data.corrupt name.
    """
    from nid_jax.data import open_collection

    output = local(output, "--output").resolve()
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ValueError(f"--output={output}: is there already; needs a new or an empty folder")
    clean_config = config.data.copy_and_resolve_references()
    clean_config.corrupt.kind = "none"
    if "patch" in clean_config:  # whole pictures are written
        clean_config.patch.size = 0
    clean = open_collection(clean_config, split, config.seed)
    if isinstance(clean, CorruptedFiles):
        raise ValueError(f"data.name={config.data.name!r}: the pictures are corrupted already")
    if clean.shape[-1] not in (1, 3):
        raise ValueError(f"{clean.title}: {clean.shape[-1]} channels; PNG files take 1 or 3")
    collection = CorruptedCollection(clean, config.data.corrupt, config.seed)
    with atomic_folder(output) as temporary:
        files = [_write_signal(temporary, collection, at) for at in range(len(collection))]
        record = {
            "source": clean.title,
            "split": split,
            "seed": config.seed,
            "options": config.data.corrupt.to_dict(),
            "names": dict(zip(files, collection.names, strict=True)),
        }
        text = json.dumps(record, indent=2) + "\n"
        (temporary / "corruption.json").write_text(text, encoding="utf-8")
    return collection


def _write_signal(folder, collection, at):
    """Write picture, mask and truth of one signal; returns the name that their files share."""
    digits = max(4, len(str(len(collection) - 1)))
    # The number keeps names distinct and in order, whatever the rest becomes.
    safe = re.sub(r"[^\w.=+-]+", "_", re.sub(r"\.[A-Za-z]{3,4}$", "", collection.names[at]))
    name = f"{at:0{digits}d}_{safe[:80]}.png"
    truth = collection.truth(at)
    picture, seen = corrupt(truth, collection.options, collection.seed, at)
    for part, values in (("images", picture), ("masks", seen[..., None]), ("truth", truth)):
        (folder / part).mkdir(exist_ok=True)
        _save_png(folder / part / name, values)
    return name


def _save_png(path, values):
    from PIL import Image

    bytes_ = np.round(255 * np.clip(values, 0, 1)).astype(np.uint8)
    Image.fromarray(bytes_[..., 0] if values.shape[-1] == 1 else bytes_).save(path)


def main() -> None:
    """The command line; whatever is wrong with it is one line, and exit status 2."""
    from absl import app, flags

    define_flags(flags.FLAGS)
    app.run(
        lambda argv: _command(flags.FLAGS),
        flags_parser=lambda argv: parse(argv, flags.FLAGS),
    )


def define_flags(values: flags.FlagValues, argv: Sequence[str] | None = None) -> None:
    """Define the options on `values`; `argv` is the command line that they will be read from."""
    from absl import flags

    from nid_jax import configs

    here = {"flag_values": values}
    about = "NAME or FILE.py[:VARIANT], with data.corrupt in it."
    configs.define_flag(about, values, argv, needs="data.corrupt")
    flags.DEFINE_string("output", None, "Folder to write: new, or empty.", **here)
    flags.DEFINE_enum("split", "test", SPLITS, "Which pictures of config.data.", **here)


def parse(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
    """Read the command line; what is wrong with it is one line, and exit status 2."""
    from absl import flags

    try:
        rest = values(argv)
        if values.config is None:
            _complain(f"--config is missing; {_EXAMPLE}")
    except flags.Error as error:
        _complain(str(error).strip().removeprefix("flag "))
    if not values.output:
        _complain("--output is missing; the folder that takes images, masks and truth")
    if len(rest) > 1:
        _complain(f"unexpected argument {rest[1]!r}; options are --name=value")
    return rest


def _command(values):
    try:
        with notices.printed():
            collection = write(values.config, values.output, values.split)
    except OSError as error:
        _complain(f"{error.filename}: {error.strerror}" if error.filename else error)
    except ValueError as error:
        _complain(error)
    size = "x".join(str(side) for side in collection.shape[:2])
    print(f"{len(collection)} pictures of {size}, {collection.title}: {values.output}")


def _complain(message):
    print("error:", notices.one_line(message), file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    with stopping.command():
        main()
