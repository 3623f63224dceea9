"""Which meshes an input names: files, folders, ShapeNet by category, and splits of its models."""

import dataclasses
import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from nid_jax import json_files
from nid_jax.data.listing import find_files
from nid_jax.files import short_name
from nid_jax.geometry.reading import mesh_formats, missing_formats

LAYOUTS = ("auto", "plain", "shapenet1", "shapenet2")
CATEGORIES = {
    "airplane": "02691156",
    "bench": "02828884",
    "cabinet": "02933112",
    "car": "02958343",
    "chair": "03001627",
    "display": "03211117",
    "lamp": "03636649",
    "speaker": "03691459",
    "rifle": "04090263",
    "sofa": "04256520",
    "table": "04379243",
    "telephone": "04401088",
    "vessel": "04530566",
}
"""The thirteen categories of ShapeNet in 3D-R2N2 (Choy et al. 2016), and their synsets."""
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Names of a split in split files, and the folder for each."""
_MODEL = {"shapenet1": "model.obj", "shapenet2": "models/model_normalized.obj"}
_SYNSET = re.compile(r"\d{8}")


@dataclasses.dataclass(frozen=True)
class Source:
    """A mesh to prepare: its file, its name, the .npz that is to be written."""

    path: Path
    name: str
    target: Path


@dataclasses.dataclass(frozen=True)
class _Model:
    """A mesh that was found. synset is '' outside ShapeNet; model: what a split file calls it."""

    path: Path
    name: str
    synset: str
    model: str


def find_sources(
    inputs: Sequence[str | Path],
    output: str | Path,
    layout: str = "auto",
    categories: Sequence[str] = (),
    split: str | Path | None = None,
) -> tuple[list[Source], list[str]]:
    """The meshes that inputs name. -> [Source], and a line for each that is not there.

    inputs: mesh files, folders, roots of ShapeNet; categories: names or synsets, all if empty;
    split: a JSON file, see read_split; models that it does not name are not taken, and one that it
    has in several parts is taken for training alone. Raises FileNotFoundError and ValueError, of
    one line, where an input, a category's name or the split file is wrong, or no mesh is found.
    """
    synsets = [synset_of(word) for word in categories]
    parts = read_split(split) if split else None
    models, missing = [], []
    for text in inputs:
        path = Path(text).expanduser()
        kind = _layout(path, layout)
        if kind == "plain":
            if synsets:
                raise ValueError(f"--category: {path} is no root of ShapeNet; see --layout")
            models += _plain(path, Path(output))
        else:
            found, absent = _shapenet(path, kind, synsets)
            models += found
            missing += absent
    targets, unknown = _targets(models, Path(output), parts, synsets)
    missing += unknown
    if not targets:
        why = f"; {missing[0]}" if missing else ""
        raise ValueError(f"{', '.join(map(str, inputs))}: no mesh to prepare{why}")
    return targets, missing


def synset_of(word: str) -> str:
    """The synset of a category's name or synset; ValueError for any other word."""
    word = word.strip().lower()
    if word in CATEGORIES:
        return CATEGORIES[word]
    if _SYNSET.fullmatch(word):
        return word
    near = difflib.get_close_matches(word, CATEGORIES, 1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"--category={word}: {meant}allowed: {', '.join(CATEGORIES)}, or a synset")


def _category(synset):
    return next((name for name, own in CATEGORIES.items() if own == synset), synset)


def _layout(path, layout):
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if path.is_file():
        return "plain"
    if layout != "auto":
        return layout
    for synset in sorted(p for p in path.iterdir() if p.is_dir() and _SYNSET.fullmatch(p.name)):
        for kind, file in _MODEL.items():
            if next(synset.glob(f"*/{file}"), None):
                return kind
    return "plain"


def _plain(path, output):
    """The mesh file, or those in a folder and its folders; named by where they lie.

    What an earlier run wrote to `output` within the folder is not taken.
    """
    if path.is_file():
        return [_Model(path, short_name(path.stem), "", path.stem)]
    endings = {f".{name}" for name in mesh_formats()}
    needs = {f".{kind}": package for kind, package in missing_formats().items()}
    earlier = [] if path == output else [output.resolve()]
    files = [
        file
        for file in find_files(path, endings, "mesh file", needs)
        if not any(folder in file.resolve().parents for folder in earlier)
    ]
    relative = [p.relative_to(path) for p in files]
    return [
        _Model(p, short_name("-".join((*r.parts[:-1], r.stem))), "", r.stem)
        for p, r in zip(files, relative, strict=True)
    ]


def _shapenet(root, kind, synsets):
    """Models of the chosen categories, and a line for each category that is not there."""
    if not root.is_dir():
        raise ValueError(f"{root}: --layout={kind} needs the root folder of ShapeNet")
    present = sorted(p.name for p in root.iterdir() if p.is_dir() and _SYNSET.fullmatch(p.name))
    found, missing = [], []
    for synset in synsets or present:
        all_files = (root / synset).glob(f"*/{_MODEL[kind]}")
        files = sorted(p for p in all_files if not any(w.startswith(".") for w in p.parts[-3:-1]))
        if not files:
            missing.append(f"{root / synset}: no model of category {_category(synset)!r}")
        for file in files:
            model = file.relative_to(root / synset).parts[0]
            name = short_name(f"{_category(synset)}-{model}")
            found.append(_Model(file, name, synset, model))
    return found, missing


def _targets(models, output, parts, synsets):
    """Where each model goes. -> [Source], a line for each model of the split that is not there."""
    sources, seen = [], set()
    for found in models:
        folder = output
        if parts is not None:
            key = _key_in(parts, found)
            if key is None:
                continue
            seen.add(key)
            folder = output / parts[key]
        sources.append((found, folder))
    names = _distinct(sources)
    chosen = [
        Source(found.path, names[at], folder / f"{names[at]}.npz")
        for at, (found, folder) in enumerate(sources)
    ]
    unknown = [
        f"{part} model {'/'.join(filter(None, (synset, model)))} of the split is not there"
        for (synset, model), part in sorted((parts or {}).items())
        if (synset, model) not in seen and (not synsets or synset in ("", *synsets))
    ]
    return chosen, unknown


def _key_in(parts, found):
    for key in ((found.synset, found.model), ("", found.model), ("", found.name)):
        if key in parts:
            return key
    return None


def _distinct(sources):
    """Names of the files to write: those of the models, with suffix or number where they clash."""
    names, taken = [], set()
    for found, folder in sources:
        name, number = found.name, 1
        if (folder, name) in taken:
            name = f"{found.name}-{found.path.suffix.lstrip('.').lower()}"
        while (folder, name) in taken:
            number += 1
            name = f"{found.name}-{number}"
        taken.add((folder, name))
        names.append(name)
    return names


def read_split(path: str | Path) -> dict[tuple[str, str], str]:
    """A split file: -> {(synset or '', model): 'train', 'val' or 'test'}.

    JSON, nested in any order: {split: {synset: [models]}}, {synset: {split: [models]}}, {split:
    [models]}; models may be a list or, as for 3D-R2N2, an object of {model: [views]}. Raises
    FileNotFoundError, and ValueError naming the file where it is none of these.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"--split={path}: no such file")
    content = json_files.read(path)
    parts = {}
    for part, synset, model in _entries(content, "", ""):
        if not part:
            raise ValueError(
                f"--split={path}: {synset or model!r} is in no split; needs train, val or test"
            )
        # A model in two parts is trained on, never tested.
        order = list(SPLIT_NAMES.values())
        old = parts.get((synset, model), part)
        parts[synset, model] = min(part, old, key=order.index)
    if not parts:
        raise ValueError(f"--split={path}: names no model; needs {{split: {{synset: [models]}}}}")
    return parts


def _entries(node, part, synset):
    """(split, synset, model) of all models below a node of the JSON."""
    if isinstance(node, list):
        for entry in node:
            if isinstance(entry, str):
                own, _, model = entry.rpartition("/")
                yield part, own or synset, model
        return
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if key.lower() in SPLIT_NAMES and not part:
            yield from _entries(value, SPLIT_NAMES[key.lower()], synset)
        elif not synset and (_SYNSET.fullmatch(key) or key in CATEGORIES):
            yield from _entries(value, part, CATEGORIES.get(key, key))
        elif isinstance(value, list) and not any(isinstance(entry, str) for entry in value):
            yield part, synset, key
        else:
            yield from _entries(value, part, synset)
