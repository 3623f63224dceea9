"""Dictionaries in folders and on the Hugging Face Hub: one file of weights and a card about them.

The calls are those of huggingface_hub's ModelHubMixin, on what `one_file` reads and writes. The
mixin itself is no base class here: it would import the Hub's library with ours, and write a
config.json of constructor arguments beside the config that the file holds already.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from nid_jax import __version__
from nid_jax.fields.model import count_parameters
from nid_jax.files import atomic_path, local
from nid_jax.notices import sides
from nid_jax.storage import one_file
from nid_jax.storage.artefacts import write_text
from nid_jax.storage.models import Trained

WEIGHTS = "model.safetensors"
CARD = "README.md"
"""Names of the files in a folder."""
_REPO_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_USE = """import nid_jax as nid

dictionary = nid.NeuralDictionary.from_pretrained({name})"""


def save_pretrained(
    folder: str | Path,
    trained: Trained,
    *,
    repo_id: str = "",
    dtype: str = "float32",
    pictures: Mapping[str, str | Path] | None = None,
    **about: Any,
) -> Path:
    """Writes FOLDER/model.safetensors and the card FOLDER/README.md. -> the folder.

    repo_id: what the card tells people to load; '' for the folder's own name. dtype: of the
    weights, see `one_file.write`. pictures: caption -> a PNG, which is copied into the folder and
    shown on the card. about: scores, licence, sections and use, as in `model_card`. Raises as
    `one_file.write` does, and FileNotFoundError for a picture that is not there.
    """
    folder = local(folder, "folder")
    found = {caption: Path(path) for caption, path in (pictures or {}).items()}
    for path in found.values():
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such picture")
    shown = {caption: path.name for caption, path in found.items()}
    card = model_card(trained, repo_id or folder.absolute().name, shown, **about)
    one_file.write(folder / WEIGHTS, trained, dtype)
    for path in found.values():
        with atomic_path(folder / path.name) as temporary:
            shutil.copyfile(path, temporary)
    write_text(folder / CARD, card)
    return folder


def from_pretrained(
    name_or_folder: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Trained:
    """The dictionary in a folder that `save_pretrained` wrote, or in a repository of the Hub.

    A folder comes before a repository of the same name. revision: branch, tag or commit; mesh: as
    in `one_file.read`. Raises as `one_file.read` does, and ValueError of one line for a name that
    is neither, or that the Hub does not give.
    """
    folder = local(name_or_folder, "name_or_folder")
    if folder.is_dir():
        return one_file.read(folder / WEIGHTS, mesh)
    name = str(name_or_folder)
    if not _REPO_ID.fullmatch(name):
        raise FileNotFoundError(f"{name}: no such folder, and no repository such as 'user/faces'")
    hub = _library(name)
    try:
        path = hub.hf_hub_download(
            name,
            WEIGHTS,
            revision=revision,
            token=token,
            library_name="nid_jax",
            library_version=__version__,
        )
    except (OSError, ValueError, hub.errors.EntryNotFoundError) as error:
        raise ValueError(f"{name}: no such folder, and the Hub says: {_first(error)}") from error
    return one_file.read(path, mesh)


def push_to_hub(
    repo_id: str,
    trained: Trained,
    *,
    message: str = "A neural implicit dictionary",
    private: bool | None = None,
    token: str | None = None,
    **card: Any,
) -> str:
    """Writes what `save_pretrained` does to a repository, which is made if need be. -> its URL.

    card: dtype, pictures, scores, licence, sections and use, as there. Raises as there, and
    ValueError of one line where the Hub refuses.
    """
    hub = _library(repo_id)
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(folder, trained, repo_id=repo_id, **card)
        api = hub.HfApi(token=token, library_name="nid_jax", library_version=__version__)
        try:
            repository = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repository.repo_id, folder_path=folder, commit_message=message
            )
        except (OSError, ValueError) as error:
            raise ValueError(f"{repo_id}: the Hub says: {_first(error)}") from error
    return str(repository)


def model_card(
    trained: Trained,
    name: str,
    pictures: Mapping[str, str] | None = None,
    *,
    scores: Mapping[str, Any] | None = None,
    licence: str = "",
    sections: Mapping[str, str] | None = None,
    use: str = "",
) -> str:
    """The card in Markdown.

    name: what to load; pictures: caption -> file beside the card; scores: name -> number; licence:
    the Hub's identifier of one, such as 'cc0-1.0'; sections: heading -> Markdown; use: Python that
    shows how it is used, '' loads it.
    """
    config, signals = trained.config, trained.signals
    *grid, channels = signals["shape"]
    active = config.router.top_k or "all"
    of_channels = f"{channels} channel{'s' * (channels != 1)}"
    rows = {
        "experts": f"{config.dictionary.num_experts} {config.dictionary.kind}, {active} active",
        "parameters": sum(count_parameters(trained.model).values()),
        "learned from": f"{signals['count']} signals: {signals['title']}",
        "signals": f"{sides(grid)} samples, {of_channels}",
        "prior of the codes": "no" if trained.prior is None else "yes",
        "made with": f"nid_jax {__version__}",
    }
    front = {"library_name": "nid_jax", "tags": ["implicit-neural-representation", "dictionary"]}
    front |= {"license": licence} if licence else {}
    parts = [
        # JSON is YAML, whatever the values hold.
        "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in front.items()), "---"]),
        f"# A neural implicit dictionary: {_plain(signals['title'])}",
        "Any new signal of this kind is one small code, solved for and not trained.",
        f"```python\n{use.strip() or _USE.format(name=json.dumps(name))}\n```",
        _table(rows),
    ]
    if scores:
        parts += ["## Scores", _table(scores)]
    for heading, text in (sections or {}).items():
        parts += [f"## {_plain(heading)}", text.strip()]
    parts += [f"![{_plain(caption)}]({file})" for caption, file in (pictures or {}).items()]
    return "\n\n".join(parts) + "\n"


def _table(rows: Mapping[str, Any]) -> str:
    lines = ["| | |", "|---|---|"]
    for name, value in rows.items():
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        lines.append(f"| {_plain(name)} | {_plain(shown)} |")
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Text that Markdown leaves as it is, in one line."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))


def _library(name: str) -> Any:
    """huggingface_hub, which is asked for only here."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError(
            f"{name}: no such folder; repositories of the Hub need: pip install 'nid_jax[hub]'"
        ) from error
    return huggingface_hub


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
