"""The dictionaries that come with the package: weights of 16 bits, a card each, and SHA256SUMS.

    python experiments/ship.py --scale=smoke|cpu --output=nid_jax/dictionaries
        [--only=faces] [--cards]

Each is learned in closed form from a built-in collection, and scored on signals of it that took no
part: from all and from some of their samples, as float32 and as the 16 bits that are stored, beside
as many principal components of the same training signals, and as many as the file could hold of
them on their grid (under the Gaussian of their codes where samples are missing, its noise by
evidence but no less than what the components leave of the training signals). Writes
DIR/NAME/{model.safetensors, README.md} and DIR/SHA256SUMS. With --cards nothing is learned: what
DIR holds is scored, and the scores on its cards are replaced.
"""

import dataclasses

import numpy as np
from absl import flags, logging
from measuring import command
from measuring.command import clocked, config_of, made, say
from peers import components

import nid_jax as nid
from nid_jax import tasks
from nid_jax.metrics import iou, psnr
from nid_jax.reporting import tables
from nid_jax.storage import artefacts, hub, shipped

PICTURES = (1.0, 0.5, 0.2, 0.1)
VOLUMES = (1.0, 0.1, 0.02, 0.005)
# Samples of training signals that components are found of.
MOST_NUMBERS = 2**27
SMOKE = {"data.num_train": 24, "data.num_test": 2, "dictionary.num_experts": 12}


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is learned, and what is said of it."""

    config: tuple[str, str]
    changes: dict
    shares: tuple[float, ...]
    data: str
    licence: str
    rights: str
    use: str
    smoke: dict = dataclasses.field(default_factory=dict)


FACES = Setting(
    ("image", "cpu"),
    {"dictionary.num_experts": 400},
    PICTURES,
    "The first 80 of the 100 faces in `skimage.data.lfw_subset`, 25x25 in gray, each mirrored and "
    "moved a little 49 times. The other 20 were not seen.",
    "",
    "scikit-image distributes the faces, of Labeled Faces in the Wild (Huang et al. 2012), "
    "whose pictures are from news on the web; neither states a licence of the pictures. What is "
    "stored are averages over all of them, no face. For research, as the data set itself; do not "
    "recognise people with it.",
    """\
import nid_jax as nid
from skimage.data import lfw_subset

faces = nid.load("faces")
pixels = lfw_subset()[80:100].astype(float)
pixels[:, 8:16, 6:18] = float("nan")  # not seen
filled = faces.fit(pixels).render()  # [20, 25, 25, 1]""",
    {"data.augment.warps": 1, "dictionary.embedding.counts": (6, 6)},
)
PHOTOS = Setting(
    ("image", "photos"),
    {
        "dictionary.num_experts": 512,
        "dictionary.embedding.counts": (24, 24),
        "dictionary.embedding.band": "ball",
    },
    PICTURES,
    "4000 random crops, 32x32 in colour, of the eight colour photographs in scikit-image's wheel, "
    "in all eight turns. A band of each photograph, of which the unseen crops are, was kept aside.",
    "",
    "astronaut, hubble_deep_field (NASA), rocket (SpaceX): public domain; chelsea, coffee, retina: "
    "CC0; immunohistochemistry: no known restrictions; stereo_motorcycle: Middlebury 2014 stereo "
    "benchmark (Scharstein et al., GCPR 2014), which asks to be cited.",
    """\
import nid_jax as nid

photos = nid.load("photos")
# crops [S, 32, 32, 3], NaN or `seen` for what is missing; larger pictures in patches of 32
filled = photos.fit(crops, seen=seen).render()""",
    {"dictionary.embedding.counts": (5, 5)},
)
PHANTOMS = Setting(
    ("ct", "cpu"),
    {
        "data.num_train": 3000,
        "dictionary.num_experts": 256,
        "dictionary.num_layers": 1,
        "dictionary.heads": "components",
        "dictionary.embedding.kind": "spline",
        "dictionary.embedding.degree": 2,
        "train.steps": 0,
        "prior.num_signals": 3000,
    },
    PICTURES,
    "3000 random relatives of the Shepp-Logan head, 64x64, drawn by `nid_jax.data.phantoms`; the "
    "unseen ones are further draws.",
    "mit",
    "Made by the package, under its licence.",
    """\
import nid_jax as nid

phantoms = nid.load("phantoms")
views = nid.operators.parallel_beam((64, 64), 8)
slices = phantoms.fit(sinograms, views).render()  # sinograms [S, 8, 64]""",
    {"data.size": (12, 12), "dictionary.embedding.counts": (6, 6)},
)
CHAIRS = Setting(
    ("sdf", "cpu"),
    {
        "data.size": (32, 32, 32),
        "data.num_train": 1600,
        "data.augment.warps": 0,
        "dictionary.num_experts": 256,
        "dictionary.embedding.kind": "cosine",
        "dictionary.embedding.counts": (),
        "dictionary.embedding.num_kept": 3900,
        "prior.num_signals": 1600,
        "prior.points": 0,
    },
    VOLUMES,
    "1600 random chairs of `nid_jax.data.shapes`, signed distances on 32x32x32, levelled out at "
    "0.1; the unseen ones are further draws. Of the grid's cosines those of most energy in them "
    "are kept.",
    "mit",
    "Made by the package, under its licence.",
    """\
import nid_jax as nid

chairs = nid.load("chairs")
# signed distances [S, 32, 32, 32], NaN where they are not known
fit = chairs.fit(distances)
meshes = fit.mesh(64)""",
    {"data.size": (10, 10, 10), "dictionary.embedding.num_kept": 300},
)
SETTINGS = {"chairs": CHAIRS, "faces": FACES, "phantoms": PHANTOMS, "photos": PHOTOS}


def stacked(collection):
    """All signals [S, *grid, C]."""
    return np.stack([collection[index] for index in range(len(collection))])


def score(name, found, truth):
    """Mean PSNR in dB, of chairs mean intersection over union."""
    found = np.asarray(found).reshape(truth.shape)
    measured = iou(found, truth) if name == "chairs" else psnr(found, truth, clip=True)
    return float(np.mean(measured))


def of_components(train, truth, masks, count):
    """What as many components of the training signals make of each mask's samples."""
    rows = train.reshape(len(train), -1)
    known = components.Components(rows, count)
    prior = components.prior_of(known, rows)
    flat = truth.reshape(len(truth), -1)
    for seen in masks:
        if seen.all():
            yield known.project(flat)
            continue
        places = np.repeat(seen.reshape(-1), truth.shape[-1])
        left = flat[:, places] - known.mean[places]
        yield known.decode(components.codes_of_few(known.axes[:, places], prior, left))


def ship(name, setting, folder, smoke):
    """Learn one, store it, read it back and score it."""
    changes = {**setting.changes, "train.checkpoint_every": 0, "prior.keep_codes": False}
    if smoke:
        changes |= {**SMOKE, **setting.smoke}
    config = config_of(*setting.config, changes)
    learned, seconds = clocked(nid.learn, config)
    file = hub.save_pretrained(folder / name, learned, dtype="float16") / hub.WEIGHTS
    title, scores = scored(name, setting, config, file, learned)
    sections = {
        "Learned from": f"{setting.data} In {seconds:.0f} s, heads in closed form; {made()}.",
        title: scores,
        "Size": f"{file.stat().st_size / 1e6:.2f} MB: weights of float16, the prior of float32.",
        "Rights in the data": setting.rights,
    }
    card = {"licence": setting.licence, "sections": sections, "use": setting.use}
    hub.save_pretrained(folder / name, learned, dtype="float16", repo_id=name, **card)


def rescore(name, setting, folder, smoke):
    """Score what is stored, and put that on its card."""
    file, path = folder / name / hub.WEIGHTS, folder / name / hub.CARD
    title, scores = scored(name, setting, nid.load(file).config, file)
    card = path.read_text(encoding="utf-8")
    before, found, rest = card.partition(f"\n## {title}\n")
    if not found:
        raise ValueError(f"{path}: no section '{title}'; make it without --cards")
    after = rest[rest.index("\n## ") :] if "\n## " in rest else ""
    artefacts.write_text(path, f"{before}{found}\n{scores.rstrip()}\n\n{made()}.\n{after}")


def scored(name, setting, config, file, learned=None):
    """(title, table) of unseen signals by the file, by what it was stored from, and by PCA."""
    task, stored = tasks.build(config), nid.load(file)
    train, truth = stacked(task.open("train")), stacked(task.open("test"))
    draw, grid = np.random.default_rng(0), truth.shape[1:-1]
    masks = [draw.random(grid) < share for share in setting.shares]
    # Of as many codes, and of as many bytes: components hold every sample of their grid.
    numbers = stored.num_experts + stored.channels
    counts = (numbers, max(1, file.stat().st_size // 2 // truth[0].size))
    # A column for each number, once.
    counts = tuple(dict.fromkeys(counts))
    known = train[: MOST_NUMBERS // truth[0].size]
    peers = [of_components(known, truth, masks, count) for count in counts]
    kinds = {"these 16 bits": stored} | ({"as float32": learned} if learned else {})
    rows = []
    for share, seen, *peer in zip(setting.shares, masks, *peers, strict=True):
        given = {} if seen.all() else {"seen": seen}
        found = [np.asarray(one.fit(truth, **given).render()) for one in kinds.values()]
        rows.append([share, *(score(name, one, truth) for one in (*found, *peer))])
        say(f"{name}: {rows[-1]}")
    title = "IoU" if name == "chairs" else "PSNR, dB"
    words = ("PCA", "PCA of as many bytes")
    methods = [f"{word}, {count} components" for word, count in zip(words, counts, strict=False)]
    found = table(rows, title, ["samples seen", *kinds, *methods])
    return f"{title} of {len(truth)} unseen signals", found


def table(rows, title, columns):
    """The scores as Markdown: shares of the samples, then methods."""
    digits = 3 if title == "IoU" else 2
    cells = [[f"{row[0]:.1%}", *(f"{value:.{digits}f}" for value in row[1:])] for row in rows]
    return tables.markdown_table(cells, columns)


def run(scale, output, only, cards):
    """Make all, or some of them."""
    logging.set_verbosity(logging.WARNING)
    unknown = [name for name in only if name not in SETTINGS]
    if unknown:
        raise ValueError(f"--only={unknown[0]}: allowed: {', '.join(SETTINGS)}")
    for name in only or SETTINGS:
        _, seconds = clocked(
            rescore if cards else ship, name, SETTINGS[name], output, scale == "smoke"
        )
        say(f"{name}: done in {tables.format_duration(seconds)}")
    shipped.write_sums(output)


if __name__ == "__main__":
    ONLY = flags.DEFINE_list("only", [], f"Some of them: {', '.join(SETTINGS)}; all.")
    CARDS = flags.DEFINE_bool("cards", False, "Score what is there, and learn nothing.")
    command.start(run, "ship", ("smoke", "cpu"), ONLY, CARDS)
