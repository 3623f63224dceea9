"""What people bring, each through one command: photographs, a sinogram, a film, a part.

    python experiments/own_inputs.py --scale=smoke|cpu --output=DIR

The inputs are made here: 30 JPEG photographs of mixed sizes, a sinogram of scikit-image, an H.264
film of a moving disc, an STL file of an L-shaped part with a pin. Each command runs in a process of
its own, as it is typed, and is timed whole: start, compilation, training, fit, report. Also how
many training patches a second come from 24 photographs, decoded once and decoded at each access.
Writes DIR/table.md and metrics.json.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import trimesh
from measuring import command
from PIL import Image
from skimage.data import shepp_logan_phantom
from skimage.transform import radon, resize
from studies import video_codings

from nid_jax import data
from nid_jax.data.builtin import load_photographs

MAIN = Path(__file__).resolve().parents[1] / "main.py"
# Keys of every command, and of each, that make it small.
SCALES = {
    "smoke": {
        "all": ("train.steps=4", "dictionary.num_experts=16", "dictionary.width=16"),
        "sinogram": ("data.num_train=16", "prior.num_signals=16", "train.batch_size=8"),
        "seconds": 1.0,
    },
    "cpu": {"all": (), "sinogram": (), "seconds": 10.0},
}
PHOTOGRAPHS, SIDE, VIEWS = 30, 64, 24
COLUMNS = {
    "input": lambda row: row["input"],
    "command": lambda row: f"`nid_jax {row['command']} --workdir=RUN`",
    "seconds": lambda row: f"{row['seconds']:.0f}",
    "of processors": lambda row: f"{row['processor_seconds']:.0f}",
    "found": lambda row: row["found"],
    "notes": lambda row: len(row["notes"]),
}


def photographs(folder, count, size=None):
    """`count` JPEG files, no two with a pixel in common; of mixed sizes, or all of `size`."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    whole = list(load_photographs().values())
    for number in range(count):
        quarter, which = divmod(number, len(whole))
        photograph = whole[which]
        for axis, part in enumerate(divmod(quarter, 2)):
            photograph = np.array_split(photograph, 2, axis)[part]
        picture = Image.fromarray(np.rint(photograph * 255).astype(np.uint8))
        rows, columns = size or draw.integers((150, 180), (420, 520))
        picture.resize((int(columns), int(rows))).save(folder / f"IMG_{number:04d}.jpg", quality=92)


def own_photographs(folder, options):
    """Crops of photographs that were kept aside."""
    photographs(folder / "photographs", PHOTOGRAPHS)
    given = ("--config=image:pictures", "--config.data.root=photographs")
    row, run = timed("30 photographs of mixed sizes", folder, given, options["all"])
    scores = json.loads((run / "fits" / "test" / "metrics.json").read_text())
    return row | {"found": f"unseen crops {scores['psnr']:.1f} dB"}


def own_sinogram(folder, options):
    """A slice from 24 views in scikit-image's geometry."""
    truth = resize(shepp_logan_phantom(), (SIDE, SIDE), anti_aliasing=True)
    angles = np.arange(VIEWS) * (180 / VIEWS)
    np.save(folder / "sinogram.npy", radon(truth, angles).T)
    np.save(folder / "angles.npy", angles)
    given = (
        "--config=ct",
        "--config.data.sinograms=sinogram.npy",
        "--config.data.angles=angles.npy",
    )
    given += ("--config.operator.parallel_beam.convention=skimage",)
    keys = options["all"] + options["sinogram"]
    row, run = timed("a sinogram of scikit-image", folder, given, keys)
    (path,) = (run / "fits" / "test" / "reconstructions").glob("*.npy")
    error = np.square(np.clip(np.load(path)[..., 0], 0, 1) - truth).mean()
    residual = json.loads((run / "fits" / "test" / "metrics.json").read_text())["relative_residual"]
    found = f"{-10 * np.log10(error):.1f} dB, {residual:.1%} of the sinogram left"
    return row | {"found": found}


def own_film(folder, options):
    """What moves before a still picture."""
    scene = video_codings.disc()
    suffix, coding = video_codings.CODINGS["H.264, quality 5"]
    video_codings.coded_file(folder / f"film{suffix}", scene.frames, coding)
    given = ("--config=video", "--config.data.name=video", f"--config.data.root=film{suffix}")
    given += ("--config.data.gray=false",)
    row, run = timed("an H.264 film", folder, given, options["all"])
    paths = sorted((run / "fits" / "test" / "mask").glob("*.png"))
    mask = np.stack([np.asarray(Image.open(path)) > 127 for path in paths])
    hits = (mask & scene.moving).sum()
    shares = hits / max(mask.sum(), 1), hits / scene.moving.sum()
    rank = json.loads((run / "fits" / "test" / "metrics.json").read_text())["rank"]
    found = f"rank {rank}, mask: precision {shares[0]:.3f}, recall {shares[1]:.3f}"
    return row | {"found": found}


def own_part(folder, options):
    """A mesh as signed distances."""
    boxes = [trimesh.creation.box((60, 40, 10)), trimesh.creation.box((10, 40, 50))]
    boxes[1].apply_translation((-25, 0, 20))
    pin = trimesh.creation.cylinder(6, 20, sections=48)
    pin.apply_translation((10, 0, 8))
    trimesh.util.concatenate([*boxes, pin]).export(folder / "part.stl")
    given = ("--config=sdf:meshes", "--config.data.root=part.stl")
    row, run = timed("an STL part", folder, given, options["all"])
    scores = json.loads((run / "fits" / "test" / "metrics.json").read_text())
    return row | {"found": f"IoU {scores['iou']:.4f}"}


def timed(name, folder, given, keys):
    """A command run in `folder`. -> (row of the table, its workdir). Its notes are kept."""
    run = folder / "runs" / name.replace(" ", "_")
    further = [f"--config.{key}" for key in keys]
    before, begun = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(MAIN), *given, *further, f"--workdir={run}"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    seconds, after = time.perf_counter() - begun, os.times()
    if done.returncode:
        raise ValueError(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    used = after.children_user + after.children_system
    used -= before.children_user + before.children_system
    notes = [line for line in done.stderr.splitlines() if line.startswith("note")]
    row = {"input": name, "command": " ".join(given), "seconds": seconds}
    return row | {"processor_seconds": used, "notes": notes}, run


def patches(folder, seconds):
    """Training patches a second of 24 photographs with the copies of the default config."""
    photographs(folder / "same", 24, (480, 640))
    rates = {}
    for name, most in (("decoded once", 4.0), ("decoded at each access", 0.0)):
        config = command.config_of("image", "cpu").data
        with config.unlocked():
            config.update({"name": "folder", "root": str(folder / "same"), "num_train": 0})
            config.update({"decoded_gib": most, "test_fraction": 0.1})
            config.patch.size = 32
        with data.kept_in(folder / "cache"):
            collection = data.open_collection(config, "train", 0)
            count, begun = 0, time.perf_counter()
            for batch in data.batches(collection, 100, 0, in_memory=False):
                count += len(batch["ids"])
                if time.perf_counter() - begun > seconds:
                    break
            rates[name] = count / (time.perf_counter() - begun)
        command.say(f"{name}: {rates[name]:.0f} patches a second")
    return rates


def run(scale, folder):
    """All inputs, one after the other."""
    options, rows = SCALES[scale], []
    with tempfile.TemporaryDirectory() as temporary:
        for own in (own_photographs, own_sinogram, own_film, own_part):
            rows.append(own(Path(temporary), options))
            command.say(f"{rows[-1]['input']}: {rows[-1]['seconds']:.0f} s, {rows[-1]['found']}")
        rates = patches(Path(temporary), options["seconds"])
    said = [f"- {row['input']}: {note}" for row in rows for note in row["notes"]]
    once, each = (f"{rate:.0f}" for rate in rates.values())
    text = f"""# Own inputs

{command.made()}; {os.cpu_count()} cores.

{command.table(COLUMNS, rows)}
The slice is Shepp and Logan's, whose like the dictionary has learned; the part is fitted by the
dictionary that learned it.

Training patches of 24 photographs of 480x640, 50 copies of each: {once} a second decoded once,
{each} decoded at each access.

What was said of them:

{chr(10).join(said)}
"""
    command.write(folder, text, {"rows": rows, "patches_per_second": rates})


if __name__ == "__main__":
    command.start(run, "own_inputs", SCALES)
