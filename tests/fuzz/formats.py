"""Every format that the library reads: a small honest file of each, and what reads it."""

import csv
import gzip
import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.io
import tifffile
import trimesh
from ml_collections import ConfigDict
from PIL import Image

from nid_jax import ffmpeg
from nid_jax.data import (
    cloud_reading,
    dicomfile,
    idx,
    kspace,
    measurements,
    mesh_listing,
    picturefiles,
    portraits,
    prepared,
    tables,
    video_files,
)
from nid_jax.data.array import open_array
from nid_jax.geometry.mesh import load_mesh
from nid_jax.interop import official
from nid_jax.interop.torch_checkpoint import read_checkpoint
from nid_jax.metrics import perceptual
from nid_jax.reporting.metrics_log import read_metrics


class Format(NamedTuple):
    """A kind of file: its name, what writes an honest one, and what reads any."""

    file: str
    make: Callable[[Path], Any]
    read: Callable[[Path], Any]
    weight: float = 1.0
    """Share of mutated files in relation to others: less of what is slow to read."""


def _rng():
    return np.random.default_rng(0)


def _bytes(*shape):
    return _rng().integers(0, 256, shape, np.uint8)


def data_config(root: Path | str, **more: Any) -> ConfigDict:
    """The `data` part of a config with every key present."""
    base: dict[str, Any] = {
        "name": "array",
        "root": str(root),
        "size": (),
        "resize": False,
        "crop": "",
        "gray": False,
        "layout": "",
        "crops": 0,
        "range": (),
        "num_train": 0,
        "num_test": 0,
        "test_fraction": 0.25,
    }
    return ConfigDict(base | more)


# ---- pictures ---------------------------------------------------------------------------------


def _picture(suffix, shape=(9, 7, 3), **options):
    def make(path):
        Image.fromarray(_bytes(*shape)).save(path, **options)

    return Format(f"a{suffix}", make, _read_picture)


def _read_picture(path):
    return picturefiles.read_header(path), picturefiles.read_image(path)


def _png16(path):
    Image.fromarray(_bytes(9, 7).astype(np.uint16) * 257).save(path)


def _netpbm(content):
    return lambda path: path.write_bytes(content)


def _tiff(values, **options):
    return lambda path: tifffile.imwrite(path, values, **options)


def _heif(path):
    import pillow_heif

    pillow_heif.register_heif_opener()
    Image.fromarray(_bytes(16, 16, 3)).save(path, format="HEIF")


def _qoi(path):
    content = b"qoif" + struct.pack(">IIBB", 7, 9, 3, 0)
    pixels = b"".join(b"\xfe" + bytes(pixel) for pixel in _bytes(63, 3))
    path.write_bytes(content + pixels + bytes(7) + b"\1")


_PICTURES = {
    "bmp": _picture(".bmp"),
    "gif": _picture(".gif", (9, 7)),
    "jpeg": _picture(".jpg"),
    "mpo": _picture(".mpo", format="MPO"),
    "png": _picture(".png", optimize=True),
    "png alpha": _picture(".png", (9, 7, 4)),
    "png of 16 bits": Format("a.png", _png16, _read_picture),
    "tga": _picture(".tga", (9, 7, 4), compression="tga_rle"),
    "webp": _picture(".webp", lossless=True),
    "avif": _picture(".avif"),
    "jpeg 2000": _picture(".jp2"),
    "jpeg 2000 bare": _picture(".j2k"),
    "heic": Format("a.heic", _heif, _read_picture),
    "qoi": Format("a.qoi", _qoi, _read_picture),
    "pbm": Format("a.pbm", _netpbm(b"P4\n8 9\n" + bytes(range(9))), _read_picture),
    "pgm": Format("a.pgm", _netpbm(b"P5\n# a\n7 9\n4095\n" + bytes(126)), _read_picture),
    "ppm as text": Format("a.ppm", _netpbm(b"P3\n2 2\n99\n" + b"1 2 3 " * 4), _read_picture),
    "pfm": Format("a.pfm", _netpbm(b"Pf\n3 2\n-1.0\n" + bytes(24)), _read_picture),
    "tiff": Format("a.tif", _tiff(_bytes(9, 7, 3), compression="zlib"), _read_picture),
    "tiff of tiles": Format(
        "a.tif",
        _tiff(_bytes(40, 40).astype(np.uint16), tile=(16, 16), compression="zlib", predictor=True),
        _read_picture,
    ),
    "tiff of floats": Format("a.tiff", _tiff(_rng().random((9, 7), np.float32)), _read_picture),
}

# ---- videos -----------------------------------------------------------------------------------


def _frames(path):
    return len(list(video_files.read_frames(path))), video_files.frame_rate(path)


def _animated(path):
    first, *rest = [Image.fromarray(one) for one in _bytes(3, 9, 7, 3)]
    first.save(path, save_all=True, append_images=rest, duration=40)


def _stack(path):
    tifffile.imwrite(path, _bytes(3, 9, 7), imagej=True, metadata={"axes": "TYX"})


def _film(path):
    ffmpeg.write(path, _bytes(3, 16, 16, 3), 10.0)


_VIDEOS = {
    "animated gif": Format("v.gif", _animated, _frames),
    "animated webp": Format("v.webp", _animated, _frames),
    "apng": Format("v.png", _animated, _frames),
    "tiff stack": Format("v.tif", _stack, _frames),
    "mp4": Format("v.mp4", _film, _frames, 0.12),
    "video npy": Format("v.npy", lambda path: np.save(path, _bytes(3, 9, 7)), _frames),
}

# ---- arrays and tables ------------------------------------------------------------------------


def _read_array(path):
    found = open_array(data_config(path), "train", 0)
    return [found[index] for index in range(len(found))]


def _read_measured(path):
    arrays = measurements.read_arrays(path, f"data.kspace={str(path)!r}")
    return {name: array.sum() for name, array in arrays.items()}


def _read_kspace(path):
    return kspace.read_kspace(path)


def _npz(path):
    np.savez_compressed(path, x_train=_bytes(4, 6, 5), x_test=_bytes(2, 6, 5), y_train=np.arange(4))


def _mat(path, **options):
    scipy.io.savemat(path, {"k": _rng().random((6, 5)), "words": "a", "cell": {"a": 1}}, **options)


def _kspace(path):
    np.savez(path, kspace=np.fft.fft2(_rng().random((8, 8))), mask=np.ones((8, 8), np.uint8))


def _idx(path):
    path.write_bytes(b"\0\0\x08\3" + struct.pack(">3I", 4, 6, 5) + _bytes(120).tobytes())


def _idx_gz(path):
    _idx(path)
    path.write_bytes(gzip.compress(path.read_bytes(), mtime=0))


def _read_idx(path):
    return idx.open_idx(data_config(path), "train", 0)[0]


def _table(path, separator=","):
    rows = [["place", "time", "height"]]
    rows += [[f"p{n}", f"2020-01-0{n + 1}", f"{n}.5"] for n in range(5)]
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=separator).writerows(rows)


def _parquet(path):
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({"x": [1.0, None, 3.0], "n": [1, 2, None], "name": ["a", "b", None]})
    parquet.write_table(table, path)


def _read_table(path):
    found = tables.read_table(path)
    return [(found[name], found.labels(name), found.odd(name)) for name in found]


_ARRAYS = {
    "npy": Format("a.npy", lambda path: np.save(path, _bytes(4, 6, 5)), _read_array),
    "npz": Format("a.npz", _npz, _read_array),
    "mat 5": Format("a.mat", lambda path: _mat(path, do_compression=True), _read_measured),
    "mat 4": Format("a.mat", lambda path: _mat4(path), _read_measured),
    "kspace npz": Format("k.npz", _kspace, _read_kspace),
    "measured tiff": Format("m.tif", _tiff(_bytes(3, 9, 7)), _read_measured),
    "measured text": Format(
        "m.txt", lambda path: np.savetxt(path, _rng().random((5, 3))), _read_measured
    ),
    "idx": Format("train-images-idx3-ubyte", _idx, _read_idx),
    "idx gz": Format("train-images-idx3-ubyte.gz", _idx_gz, _read_idx),
    "csv": Format("t.csv", _table, _read_table),
    "tsv": Format("t.tsv", lambda path: _table(path, "\t"), _read_table),
    "parquet": Format("t.parquet", _parquet, _read_table),
    "table npz": Format(
        "t.npz",
        lambda path: np.savez(path, x=np.arange(4.0), w=np.array(list("abcd"))),
        _read_table,
    ),
}


def _mat4(path):
    scipy.io.savemat(path, {"k": _rng().random((6, 5))}, format="4")


# ---- scanners ---------------------------------------------------------------------------------


def _dicom(path, frames=1, compress=""):
    from tests.data import dicomfiles

    stored = _bytes(frames, 8, 8).astype(np.int16) * 4
    file = dicomfiles.data_set(
        stored if frames > 1 else stored[0],
        RescaleSlope=1.5,
        RescaleIntercept=-1000,
        WindowCenter=40,
        WindowWidth=400,
        PixelSpacing=[1, 1],
        ImagePositionPatient=[0, 0, 1],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        PixelPaddingValue=-2000,
    )
    if compress:
        file.compress(compress)
    file.save_as(path, enforce_file_format=True)


def _read_dicom(path):
    try:
        return dicomfile.read_slices(path, sure=True)
    except dicomfile.PassedOver as reason:
        return reason


_SCANS = {
    "dicom": Format("a.dcm", _dicom, _read_dicom),
    "dicom of frames": Format("b.dcm", lambda path: _dicom(path, 3), _read_dicom),
    "dicom rle": Format("c.dcm", lambda path: _dicom(path, 2, "1.2.840.10008.1.2.5"), _read_dicom),
}

# ---- shapes -----------------------------------------------------------------------------------


def _sphere():
    return trimesh.creation.icosphere(1)


def _mesh(**options):
    return lambda path: _sphere().export(path, **options)


def _dae(path):
    path.write_bytes(trimesh.exchange.dae.export_collada(_sphere()))


def _gltf(path):
    files = trimesh.Scene(_sphere()).export(file_type="gltf", merge_buffers=True)
    for name, content in files.items():
        (path if name.endswith(".gltf") else path.with_name(name)).write_bytes(content)


def _3mf(path):
    path.write_bytes(trimesh.exchange.threemf.export_3MF(_sphere()))


def _text_cloud(path):
    points = _sphere().vertices
    np.savetxt(path, np.concatenate([points, points], 1), header="x y z nx ny nz")


def _ply_cloud(path, text=False):
    from plyfile import PlyData, PlyElement

    points = np.asarray(_sphere().vertices, np.float32)
    names = [(name, "f4") for name in ("x", "y", "z", "nx", "ny", "nz")]
    rows = np.array([tuple(row) for row in np.concatenate([points, points], 1)], names)
    PlyData([PlyElement.describe(rows, "vertex")], text=text).write(path)


def _xaml(path):
    mesh = _sphere()
    places = " ".join(f"{x:g},{y:g},{z:g}" for x, y, z in mesh.vertices)
    corners = " ".join(map(str, mesh.faces.ravel()))
    space = "http://schemas.microsoft.com/winfx/2006/xaml/presentation"
    path.write_text(
        f'<Model3DGroup xmlns="{space}"><GeometryModel3D><MeshGeometry3D Positions="{places}" '
        f'Normals="{places}" TriangleIndices="{corners}"/></GeometryModel3D></Model3DGroup>'
    )


def _prepared(path):
    mesh = _sphere()
    arrays = {
        "sdf": _rng().random((8, 8, 8), np.float32),
        "truncation": 0.1,
        "points": mesh.vertices,
        "distances": np.zeros(len(mesh.vertices)),
        "surface": mesh.vertices,
        "normals": mesh.vertices,
        "vertices": mesh.vertices,
        "faces": mesh.faces,
        "normalise": np.eye(4),
        "denormalise": np.eye(4),
    }
    prepared.write_prepared(path, source="a.obj", settings={"up": "y"}, **arrays)


def _read_prepared(path):
    found = prepared.read_prepared(path, prepared.KEYS)
    return found.settings.get("up"), found.sdf.sum()


def _split(path):
    parts = {"train": {"03001627": ["a", "b"]}, "test": {"03001627": ["c"]}}
    path.write_text(json.dumps(parts))


_SHAPES = {
    "obj": Format("a.obj", _mesh(), load_mesh),
    "off": Format("a.off", _mesh(), load_mesh),
    "ply mesh": Format("a.ply", _mesh(), load_mesh),
    "ply mesh as text": Format("a.ply", _mesh(encoding="ascii"), load_mesh),
    "stl": Format("a.stl", _mesh(), load_mesh),
    "stl as text": Format("b.stl_ascii", _mesh(file_type="stl_ascii"), load_mesh),
    "glb": Format("a.glb", _mesh(), load_mesh),
    "gltf": Format("a.gltf", _gltf, load_mesh),
    "3mf": Format("a.3mf", _3mf, load_mesh),
    "dae": Format("a.dae", _dae, load_mesh),
    "xaml": Format("a.xaml", _xaml, load_mesh),
    "cloud as text": Format("a.xyz", _text_cloud, cloud_reading.read_cloud),
    "cloud ply": Format("c.ply", _ply_cloud, cloud_reading.read_cloud),
    "cloud ply as text": Format("d.ply", lambda p: _ply_cloud(p, True), cloud_reading.read_cloud),
    "prepared shape": Format("a.npz", _prepared, _read_prepared),
    "split": Format("split.json", _split, mesh_listing.read_split),
}

# ---- lists, weights, checkpoints of others -----------------------------------------------------


def _celeba(path):
    path.write_text("a.jpg 0\nb.jpg 2\n")
    pictures = path.with_name("img_align_celeba")
    pictures.mkdir(exist_ok=True)
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(_bytes(9, 9, 3)).save(pictures / name)


def _read_celeba(path):
    found = portraits.open_celeba(data_config(path.parent, name="celeb_a", size=(8, 8)), "train")
    return found[0]


def _olivetti(path):
    np.save(path, _bytes(8, 64, 64))


def _read_olivetti(path):
    return portraits.open_olivetti(data_config(path.parent, name="olivetti"), "train", 0)[0]


def _olivetti_mat(path):
    scipy.io.savemat(path, {"faces": _bytes(4096, 8)})


def _lpips(path):
    shapes = perceptual.expected_shapes("alex")
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    np.savez_compressed(path, network="alex", **arrays)


def official_state() -> dict[str, Any]:
    """An official state dict: a codebook of 5 rows, 7 experts of 1 channel, two layers."""
    rng = _rng()
    shapes = {
        "experts.net.net.0.0.weight": (6, 2),
        "experts.net.net.0.0.bias": (6,),
        "experts.net.net.1.0.weight": (7, 6),
        "experts.net.net.1.0.bias": (7,),
        "gate_generator.codebook.weight": (5, 8),
    }
    return {name: rng.normal(size=shape).astype("f4") for name, shape in shapes.items()}


def _checkpoint(path):
    from measuring.torch_files import write

    weights = official_state()
    state = {
        number: {"step": 1, "exp_avg": value * 0, "exp_avg_sq": value * 0}
        for number, value in enumerate(weights.values())
    }
    group = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False}
    group |= {"maximize": False, "params": list(range(len(weights)))}
    optimizer = {"state": state, "param_groups": [group]}
    write(path, {"model": weights, "optimizer": optimizer, "current_epoch": 3})


def _read_official(path):
    saved = read_checkpoint(path)
    try:
        return official.architecture(saved.weights)
    except ValueError as error:
        # As the importer says it.
        raise ValueError(f"{path}: {error}") from error


def _lines(path):
    rows = [{"step": step, "time": 0.5 * step, "loss": 1 / step} for step in range(1, 5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


_OTHERS = {
    "celeba": Format("list_eval_partition.txt", _celeba, _read_celeba),
    "olivetti npy": Format("olivetti_faces.npy", _olivetti, _read_olivetti),
    "olivetti mat": Format("olivettifaces.mat", _olivetti_mat, _read_olivetti),
    "lpips": Format("lpips.npz", _lpips, perceptual.load_weights, 0.3),
    "torch checkpoint": Format("a.ckpt", _checkpoint, _read_official),
    "official config": Format(
        "a.txt",
        lambda path: path.write_text("num_layers = 4\ndataset: celeba\nlr 0.001\n--siren\n"),
        official.read_options,
    ),
    "metrics.jsonl": Format("metrics.jsonl", _lines, read_metrics),
}

PLAIN: dict[str, Format] = {
    **_PICTURES,
    **_VIDEOS,
    **_ARRAYS,
    **_SCANS,
    **_SHAPES,
    **_OTHERS,
}
"""Formats whose file is all that is read."""


def zipped(members: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of members by name."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, kind)
    return stream.getvalue()


def npy(header: str, content: bytes = b"") -> bytes:
    """An .npy of any header."""
    text = header.encode("latin-1")
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + content
