"""Rate and distortion: rounded codes of canonical dictionaries beside JPEG and WebP.

    python experiments/rate.py --scale=smoke|cpu --output=DIR

Unseen faces and photographs of the variants cpu and photos of configs/image.py. Codes are rounded
to one step for all numbers, as suits orthonormal atoms, and counted in two ways: `ideal`, the bits
that an arithmetic coder takes under the prior of the training codes, which a decoder has as it has
the dictionary; and `lzma`, the bytes of LZMA over the whole numbers of all pictures together. The
dictionary itself is not counted. Files of JPEG (tables of each picture's own; whole colours and
halved ones) and WebP (the slowest method) are counted as they are, and without what a flat picture
of the same quality takes, which is nearly all header; of JPEG the tables are not counted either.
Writes DIR/table.md, metrics.json and figure.png.
"""

import io
import lzma

import numpy as np
from measuring import command
from measuring.command import say
from PIL import Image
from scipy.stats import norm

import nid_jax as nid
from nid_jax import tasks
from nid_jax.data import to_array

VARIANTS = {"faces": "cpu", "photographs": "photos"}
SCALES = {
    "smoke": {"changes": {"data.num_train": 64, "data.num_test": 4, "dictionary.num_experts": 32}},
    "cpu": {"changes": {}},
}
STEPS = (0.00125, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16)
SHARES = (0.125, 0.25, 0.5, 1.0)
QUALITIES = (1, 5, 10, 20, 30, 50, 70, 80, 90, 95)
SUBSAMPLINGS = ((", 4:4:4", 0), (", 4:2:0", 2))
START_OF_SCAN = 0xDA
NOTES = """\
Means over unseen pictures. NID: codes of canonical dictionaries, the first so many numbers rounded
to one step. Bits per pixel: of an ideal coder under the prior of the training codes, the bias at
one number a channel; of JPEG and WebP the file without what a flat picture of the same quality
takes, of JPEG without its tables too. JPEG still pays for whole bits of a Huffman code, and for
whole bytes, where an ideal coder pays neither. Then the whole files, and of NID LZMA over all codes
together. The dictionary, which a decoder needs, is not counted. JPEG with tables of each picture's
own and both whole colours (4:4:4) and halved ones (4:2:0), WebP by its slowest method. Rows that
another of the same coder beats in rate and quality are left out. WebP has no gray: it holds three
channels of faces."""
COLUMNS = {
    "data": lambda row: row["data"],
    "coder": lambda row: row["coder"],
    "setting": lambda row: row["setting"],
    "bits per pixel": lambda row: f"{row['bits']:.2f}",
    "with headers, or LZMA": lambda row: f"{row['file_bits']:.2f}",
    "PSNR, dB": lambda row: f"{row['psnr']:.2f}",
}


def psnr(found, truth):
    """Mean over pictures, in dB."""
    error = np.square(np.clip(found, 0, 1) - truth).mean((1, 2, 3))
    return float(-10 * np.log10(np.maximum(error, 1e-10)).mean())


def our_rows(name, dictionary, truth):
    """Every number of codes at every step."""
    rows = []
    pixels = truth[0, ..., 0].size
    prior = dictionary.prior
    variance = np.asarray(prior.variance)
    for share in SHARES:
        numbers = max(1, int(share * dictionary.num_experts))
        fit = dictionary.first(numbers).fit(truth, solver=nid.Ridge())
        mean, deviation = np.asarray(prior.mean)[:numbers], np.sqrt(variance[:numbers])
        for step in STEPS:
            whole = np.rint((fit.codes - mean) / step)
            bias = np.rint(fit.bias / step)
            low, high = ((whole + side) * step / deviation for side in (-0.5, 0.5))
            # The tail on whose side the interval lies: no difference of ones.
            chance = np.where(low > 0, norm.sf(low) - norm.sf(high), norm.cdf(high) - norm.cdf(low))
            # Escapes: beyond what doubles tell from zero 40 bits.
            bits = -np.log2(np.maximum(chance, 2.0**-40)).sum(1) + bias.shape[1] * np.log2(1 / step)
            packed = np.concatenate([whole, bias], 1).astype(np.int16).T
            file_bits = 8 * len(lzma.compress(packed.tobytes())) / len(truth)
            coded = fit.of_codes(
                fit.dictionary,
                (mean + step * whole).astype(np.float32),
                (step * bias).astype(np.float32),
                fit.grid_shape,
            )
            rows.append(
                {
                    "data": name,
                    "coder": "NID",
                    "setting": f"{numbers} numbers, step {step:g}",
                    "bits": float(bits.mean() / pixels),
                    "file_bits": float(file_bits / pixels),
                    "psnr": psnr(coded.render(), truth),
                }
            )
    return rows


def encoded(image, kind, options):
    """Bytes of one picture in a format."""
    with io.BytesIO() as file:
        Image.fromarray(image).save(file, kind, **options)
        return file.getvalue()


def payload(file, kind):
    """Bytes of a file; of JPEG those of its one scan, without tables and other headers."""
    if kind != "JPEG":
        return len(file)
    # Nothing before the scan but segments with their lengths: no marker is taken for data.
    place = 2
    while file[place + 1] != START_OF_SCAN:
        place += 2 + int.from_bytes(file[place + 2 : place + 4], "big")
    return len(file) - place


def peer_options(gray):
    """Kind, words and options of every file of JPEG and WebP that is tried."""
    for quality in QUALITIES:
        for words, subsampling in (("", 0),) if gray else SUBSAMPLINGS:
            sampled = {"optimize": True, "subsampling": subsampling}
            yield "JPEG", f"quality {quality}{words}", {"quality": quality, **sampled}
        yield "WebP", f"quality {quality}", {"quality": quality, "method": 6}


def peer_rows(name, truth):
    """JPEG and WebP at many qualities."""
    whole = np.rint(255 * truth).astype(np.uint8)
    gray = whole.shape[-1] == 1
    whole = whole[..., 0] if gray else whole
    flat, mode = np.full_like(whole[0], 128), "L" if gray else "RGB"
    pixels, rows = truth[0, ..., 0].size, []
    for kind, words, options in peer_options(gray):
        files = [encoded(image, kind, options) for image in whole]
        found = [np.asarray(Image.open(io.BytesIO(file)).convert(mode)) for file in files]
        found = np.stack(found).reshape(truth.shape) / 255.0
        nothing = payload(encoded(flat, kind, options), kind)
        told = float(np.mean([payload(file, kind) for file in files])) - nothing
        rows.append(
            {
                "data": name,
                "coder": kind,
                "setting": words,
                "bits": 8 * max(told, 0) / pixels,
                "file_bits": 8 * float(np.mean([len(file) for file in files])) / pixels,
                "psnr": psnr(found, truth),
            }
        )
    return rows


def best(rows):
    """Rows that no other of the same coder beats in both rate and quality, by rate."""
    kept, highest = [], -np.inf
    for row in sorted(rows, key=lambda row: row["bits"]):
        if row["psnr"] > highest:
            kept.append(row)
            highest = row["psnr"]
    return kept


def figure_of(rows):
    """PSNR over bits per pixel, a panel a data set: whole files dotted."""
    figure, axes = command.panels(1, len(VARIANTS), 4.5, 3.6)
    for axis, name in zip(axes[0], VARIANTS, strict=True):
        for coder in ("NID", "JPEG", "WebP"):
            own = [row for row in rows if (row["data"], row["coder"]) == (name, coder)]
            quality = [row["psnr"] for row in own]
            (line,) = axis.plot([row["bits"] for row in own], quality, "o-", label=coder)
            files = sorted((row["file_bits"], row["psnr"]) for row in own)
            axis.plot(*zip(*files, strict=True), ":", color=line.get_color())
        axis.plot([], [], "k:", label="with headers, or LZMA")
        axis.set(xscale="log", xlabel="bits per pixel", ylabel="PSNR, dB", title=name)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
    return figure


def run(scale, output):
    """Both data sets, all coders."""
    rows = []
    for name, variant in VARIANTS.items():
        config = command.config_of("image", variant, SCALES[scale]["changes"])
        dictionary = nid.learn(config)
        truth = to_array(tasks.build(config).open("test"))
        for coded in (our_rows(name, dictionary, truth), peer_rows(name, truth)):
            for coder in dict.fromkeys(row["coder"] for row in coded):
                rows += best([row for row in coded if row["coder"] == coder])
        say(f"{name}: {len(truth)} pictures of {truth.shape[1:]}")
    text = f"{command.table(COLUMNS, rows)}\n\n{NOTES}"
    command.write(output, text, {"rows": rows}, figure_of(rows))


if __name__ == "__main__":
    command.start(run, "rate", ("smoke", "cpu"))
