"""Learning from signals that share no grid, beside what users of one grid do with them.

    python experiments/gridless.py --scale=smoke|cpu --output=DIR [--contests=photographs,faces]
    python experiments/gridless.py --scale=cpu --output=DIR --contests=growth
    python experiments/gridless.py --scale=cpu --output=DIR --contests=mixture

Photographs of three sizes, faces each of which shows its own fifth of the pixels, faces with holes,
weather stations that differ from day to day (studies/sensors.py); every dictionary and peer is
judged by the same unseen whole signals in the same run. Writes DIR/table.md, metrics.json and
figure.png. The contest of growth (studies/growth.py) writes DIR/growth.md, growth.json and
growth.png instead: what learning takes from the same signals in more and more ways. That of the
mixture (studies/mixture.py) writes DIR/mixture.md, mixture.json and mixture.png: codes of few
measurements under a mixture beside neighbours, how good and how fast; dictionaries that are in
DIR, such as DIR/faces.safetensors, are not learned anew.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from absl import flags, logging
from measuring import command
from measuring.command import clocked, say
from peers import imputation
from peers.components import Components, codes_of_few, prior_of
from skimage.transform import resize
from studies import growth, mixture, sensors

import nid_jax as nid
from nid_jax import data, devices, metrics
from nid_jax.storage import artefacts

SCALES = ("smoke", "cpu")
# Shares of photographs at full size, at half and at a quarter of it.
SHARES = ((1, 0.1), (2, 0.3), (4, 0.6))
FIFTH, HOLES = 0.2, 0.3
COLUMNS = {
    "signals": lambda row: row.contest,
    "learned from": lambda row: row.method,
    "numbers": lambda row: row.numbers,
    "unseen, dB": lambda row: f"{row.psnr:.2f}",
    "from few of its points, dB": lambda row: "" if row.few is None else f"{row.few:.2f}",
    "learning, s": lambda row: f"{row.seconds:.1f}",
    "a day's fit, s": lambda row: "" if row.each is None else f"{row.each:.3f}",
}


@dataclasses.dataclass(frozen=True)
class Size:
    """How large the contests are."""

    crops: int
    side: int
    crop_numbers: int
    unseen: int
    faces: int
    face_numbers: int
    grown: tuple[int, int, int, int]
    """Signals, their side, rounds and steps."""
    ways: tuple[int, ...]
    days: tuple[int, int]
    stations: tuple[tuple[int, int], ...]


SIZES = {
    "smoke": Size(40, 16, 64, 4, 16, 24, (16, 12, 2, 3), (1, 16), (12, 3), ((12, 4),)),
    "cpu": Size(
        *(1000, 32, 1024, 60, 80, 256, (256, 24, 8, 100), (1, 4, 16, 64, 256)),
        *((300, 60), ((60, 15), (25, 8))),
    ),
}


class Row(NamedTuple):
    """Unseen signals by a method: mean PSNR from all of their points, and from a tenth of them, of
    stations from few; seconds of learning, and of fitting each day of stations."""

    contest: str
    method: str
    numbers: int
    psnr: float
    few: float | None
    seconds: float
    each: float | None = None


class Judge:
    """Unseen signals [S, *grid, C], and the tenth of the points that fits may see."""

    def __init__(self, contest, unseen):
        self.contest, self.unseen = contest, unseen
        count = int(np.prod(unseen.shape[1:-1]))
        order = np.random.default_rng(1).permutation(count)
        self.seen = (order < count // 10).reshape(unseen.shape[1:-1])

    def dictionary(self, method, given, numbers):
        """A dictionary learned from what is given."""
        return self.judged(method, *clocked(lambda: nid.learn(given, num_experts=numbers)))

    def judged(self, method, found, seconds):
        """A dictionary that took so many seconds to learn."""
        whole = found.fit(self.unseen, solver=nid.solvers.Ridge())
        few = found.fit(self.unseen, seen=self.seen)
        scores = [one.score(self.unseen)["psnr"].mean() for one in (whole, few)]
        return self._row(method, found.num_experts, *scores, seconds)

    def components(self, method, make, numbers):
        """Principal components of signals that `make` brings to the grid, and their Gaussian."""

        def learned():
            rows = make().reshape(-1, np.prod(self.unseen.shape[1:])).astype(float)
            known = Components(rows, numbers)
            return known, prior_of(known, rows)

        (known, prior), seconds = clocked(learned)
        rows = self.unseen.reshape(len(self.unseen), -1)
        whole = self._psnr(known.project(rows))
        places = np.repeat(self.seen.reshape(-1), self.unseen.shape[-1])
        axes, values = known.axes[:, places], rows[:, places] - known.mean[places]
        few = self._psnr(known.decode(codes_of_few(axes, prior, values)))
        return self._row(method, len(known.axes), whole, few, seconds)

    def _psnr(self, rows):
        found = np.clip(rows.reshape(self.unseen.shape), 0, 1)
        errors = np.square(found - self.unseen).mean(tuple(range(1, found.ndim)))
        return np.mean(metrics.psnr_from_mse(errors))

    def _row(self, method, numbers, psnr, few, seconds):
        row = Row(self.contest, method, numbers, float(psnr), float(few), seconds)
        say(f"{row.contest}: {method}: {row.psnr:.2f} dB, {row.few:.2f} dB, {seconds:.1f} s")
        return row


def _signals(name, changes):
    """(to learn from, unseen) of a built-in collection."""
    config = command.config_of("image", name, changes)
    parts = [data.open_collection(config.data, split, 0) for split in ("train", "test")]
    return [data.to_array(part) for part in parts]


def photographs(size):
    """A tenth of the crops at 32, three tenths at 16, six tenths at 8 pixels a side."""
    changes = {"data.num_train": size.crops, "data.num_test": size.unseen}
    changes |= {"data.size": (size.side, size.side), "data.augment.turns": False}
    whole, unseen = _signals("photos", changes)
    order = np.random.default_rng(0).permutation(len(whole))
    ends = np.round(np.cumsum([share for _, share in SHARES]) * len(whole)).astype(int)
    given = [None] * len(whole)
    for (factor, _), some in zip(SHARES, np.split(order, ends[:-1]), strict=True):
        side = whole.shape[1] // factor
        for index in some:
            blocks = whole[index].reshape(side, factor, side, factor, -1)
            given[index] = blocks.mean((1, 3))
    full = [picture for picture in given if picture.shape == whole.shape[1:]]
    sides = " and ".join(str(size.side // factor) for factor, _ in SHARES)
    judge, numbers = Judge(f"photographs of {sides} pixels a side", unseen), size.crop_numbers
    return [
        judge.dictionary("NID, each at its own size", given, numbers),
        judge.dictionary("NID, all at full size (not available)", whole, numbers),
        judge.components("PCA, those at full size alone", lambda: np.stack(full), numbers),
        judge.components(
            "PCA, all resized to full size",
            lambda: np.stack([resize(one, whole.shape[1:], order=3) for one in given]),
            numbers,
        ),
    ]


def faces(size):
    """Faces that show a fifth of their pixels, or have holes."""
    whole, unseen = _signals("cpu", {"data.augment.mirror": False, "data.augment.warps": 0})
    whole, numbers = whole[: size.faces], size.face_numbers
    draw = np.random.default_rng(0)
    masks = {
        "faces, each known at its own fifth of the pixels": draw.uniform(size=whole.shape[:3])
        < FIFTH,
        "faces, 30% of the pixels missing": draw.uniform(size=whole.shape[:3]) >= HOLES,
        "faces, a block of 30% missing": _blocks(whole.shape[:3], draw),
    }
    rows = []
    known = clocked(lambda: nid.learn(whole, num_experts=numbers))
    for contest, seen in masks.items():
        judge = Judge(contest, unseen)
        found, seconds = clocked(lambda seen=seen: nid.learn(whole, num_experts=numbers, seen=seen))
        # Principal components are fewer than the signals.
        few = found.first(min(numbers, len(whole) - 1))
        rows += [
            judge.judged("NID, what is seen", found, seconds),
            judge.judged("NID, what is seen, as few numbers as PCA", few, seconds),
            judge.judged("NID, whole signals (not available)", *known),
            judge.components(
                "PCA after interpolation",
                lambda seen=seen: imputation.interpolated(whole, seen),
                numbers,
            ),
            judge.components(
                "PCA by alternating imputation", lambda seen=seen: _imputed(whole, seen), numbers
            ),
        ]
    return rows


def _imputed(pictures, seen):
    rows = pictures.reshape(len(pictures), -1)
    return imputation.imputed(rows, np.repeat(seen.reshape(len(rows), -1), pictures.shape[-1], 1))


def _blocks(shape, draw):
    """What squares of 30% of each picture leave."""
    seen = np.ones(shape, bool)
    side = round(np.sqrt(HOLES) * min(shape[1:]))
    for one in seen:
        row, column = (draw.integers(length - side + 1) for length in shape[1:])
        one[row : row + side, column : column + side] = False
    return seen


def draw(rows):
    """PSNR of every method, a panel for each kind of signals."""
    contests = list(dict.fromkeys(row.contest for row in rows))
    columns = min(len(contests), 2)
    figure, axes = command.panels(-(-len(contests) // columns), columns, 6.0, 2.0)
    for axis in axes.flat[len(contests) :]:
        axis.remove()
    for axis, contest in zip(axes.flat, contests, strict=False):
        own = [row for row in rows if row.contest == contest][::-1]
        colours = ["C0" if row.method.startswith("NID") else "C7" for row in own]
        axis.barh([row.method for row in own], [row.psnr for row in own], color=colours)
        lowest = min(row.psnr for row in own)
        axis.set(xlim=(lowest - 2, None), xlabel="unseen whole signals, dB")
        axis.set_title(contest, fontsize=8)
        axis.tick_params(labelsize=7)
    return figure


def stations(size):
    """Weather stations."""
    return [Row(*row) for row in sensors.compared(*size.days, size.stations)]


CONTESTS = {"photographs": photographs, "faces": faces, "stations": stations}


def grown(scale, output):
    """How learning grows with the number of ways."""
    size = SIZES[scale]
    rows = growth.compared(__file__, scale, size)
    signals, side, rounds, steps = size.grown
    note = (
        f"{signals} gray crops of photographs of {side}x{side} pixels, of which every way shows "
        f"another half; one grid: all of them. Rounds: {rounds} of expectation maximisation with "
        f"covariances after {growth.spectrum_rounds(rounds)} of variances alone, "
        f"{growth.FUNCTIONS} cosines along each axis (on one grid the heads come in closed form). "
        f"Steps: {steps} of descent, {growth.BATCH} signals each, a trunk of width {growth.WIDTH}, "
        f"{growth.EXPERTS} experts. Compiling is lowering and JAX's compiler, peaks are of whole "
        f"processes. {command.made()}"
    )
    table = growth.table(rows)
    command.write_page(output / "growth.md", f"{table}\n{note}")
    artefacts.write_json(output / "growth.json", {"scale": scale, "rows": rows}, 2)
    command.save(growth.draw(rows), output / "growth.png")
    print(table)
    print(output / "growth.md")


def mixed(scale, output):
    """Codes under a mixture beside neighbours."""
    for found in mixture.compared(scale, output):
        text = mixture.page(found)
        command.write_page(output / "mixture.md", text)
        record = {"versions": devices.versions(), "scale": scale, **found}
        artefacts.write_json(output / "mixture.json", record, 2)
        if found["times"]:
            command.save(mixture.draw(found), output / "mixture.png")
    print(text)
    print(output / "mixture.md")


# Each writes its own files.
APART = {"growth": grown, "mixture": mixed}


def run(scale, output, contests, case):
    """Run the comparison, or one case of growth in this process, which prints JSON."""
    logging.set_verbosity(logging.WARNING)
    size = SIZES[scale]
    if case:
        kind, ways = case
        signals, side, *counts = size.grown
        count = counts[growth.KINDS.index(kind)]
        command.tell(growth.measured(signals, side, kind, int(ways), count))
        return
    unknown = [name for name in contests if name not in (*CONTESTS, *APART)]
    if unknown:
        allowed = ", ".join((*CONTESTS, *APART))
        raise ValueError(f"--contests={unknown[0]}: allowed: {allowed}")
    rows = [row for name, make in CONTESTS.items() if name in contests for row in make(size)]
    for name, make in APART.items():
        if name in contests:
            make(scale, output)
    if not rows:
        return
    table = command.table(COLUMNS, rows)
    note = (
        "Unseen signals from all of their points by so many numbers, and the most probable from a "
        f"tenth, of stations from few. {command.made()}"
    )
    command.write(
        output, f"{table}\n{note}", {"results": [row._asdict() for row in rows]}, draw(rows)
    )
    print(table)
    print(output / "table.md")


if __name__ == "__main__":
    wanted = flags.DEFINE_list(
        "contests", [*CONTESTS, *APART], f"Some of {', '.join((*CONTESTS, *APART))}."
    )
    one = flags.DEFINE_list("case", [], "One case of growth, such as rounds,16; prints JSON.")
    command.start(run, "gridless", SCALES, wanted, one)
