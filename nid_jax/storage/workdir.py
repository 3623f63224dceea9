"""The folder of one run: where everything lies, and the config it was made with.

config.json checkpoints/ metrics.jsonl events/ atoms.png usage.json summary.json report.html
fits/NAME/{codes.npz, metrics.json, comparison.png, pictures/} samples/{codes.npz, sheet.png}
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from nid_jax import json_files
from nid_jax.fields.model import UNSAID
from nid_jax.files import local, recover, refusals_named, running
from nid_jax.json_files import Schema
from nid_jax.running import processes
from nid_jax.storage import artefacts, config_json, lock, schemas

_FIT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+-]{0,99}")
_ABSENT = object()


class Workdir:
    """The folder of one run. Opening it makes nothing; `writing` does, and is one at a time.

    `argument` is what its owner knows it as: that of a function, or '--workdir'; `kept`: whether
    it is there after the run, so that its path says something. Raises ValueError in one line if
    there is a file in its place or it is none of this machine, FileNotFoundError if it is opened
    read-only and does not exist.
    """

    def __init__(
        self,
        path: str | Path,
        read_only: bool = False,
        argument: str = "workdir",
        kept: bool = True,
    ):
        self.root = local(path, argument).absolute()
        self.read_only, self.argument, self.kept = read_only, argument, kept
        with refusals_named(f"{argument}={path}"):
            found = self.root.exists()
        if found and not self.root.is_dir():
            raise ValueError(f"{argument}={path}: is a file, a folder is needed")
        if read_only and not found:
            raise FileNotFoundError(f"{argument}={path}: no such folder, train into it first")

    @contextmanager
    def writing(self, place: Path) -> Iterator[None]:
        """Context of the one writer of a place: `checkpoints`, all that training leaves; a `fit`;
        `samples`. What killed ones left half-written there is put right first.

        Different places are written at the same time, and readers ask nobody. Of several processes
        of one run the first has the lock. Raises ValueError, in one line, where another process is
        writing there, and where the folder cannot be written: a run should end here and not after
        its first hour.
        """
        self._must_be_writable()
        what, instead = self._doing(place)
        with ExitStack() as stack:
            refusal = None
            if processes.first():
                try:
                    stack.enter_context(lock.held(_lock_of(place), self.root, what, instead))
                    self._recover(place)
                except ValueError as error:
                    refusal = error
            if not processes.everywhere(refusal is None):
                raise refusal or ValueError(f"{self.root}: refused to the first process")
            yield

    def check_free(self, place: Path) -> None:
        """Raises ValueError where `writing` would refuse now, before anything is looked at. Several
        processes of one run are not refused here, as the first may have the lock already."""
        if jax.process_count() == 1:
            lock.check_free(_lock_of(place), self.root, *self._doing(place))

    def _doing(self, place: Path) -> tuple[str, str]:
        """(what is done there, what else may be typed), in words."""
        typed = self.argument.startswith("--")
        other = f"give another {self.argument}, or wait for it"
        if place.parent != self.fits:
            return ("a training" if place == self.checkpoints else "drawing of samples"), other
        name = "--config.fit.name" if typed else "fit.name"
        return f"work on the fit {place.name!r}", f"give another {name}, or wait for it"

    def _recover(self, place: Path) -> None:
        """What writers that are gone left half-written: in the place, of it, and, where nobody else
        is writing, in what all of them share."""
        recover(place.parent, lambda process, name: name == place.name)
        if place != self.checkpoints:  # which look after themselves
            for folder in [place, *(path for path in place.rglob("*") if path.is_dir())]:
                recover(folder, lambda process, name: True)
        locks = {*self.root.glob(".*.lock"), *self.fits.glob(".*.lock")} - {_lock_of(place)}
        others = [lock.is_held(path) for path in locks]
        if not any(others):
            for folder in (self.root, self.root / "cache"):
                # One of this process's number is from before: it is writing nothing yet.
                recover(folder, lambda process, _: process == os.getpid() or not running(process))

    def __repr__(self) -> str:
        return f"Workdir({str(self.root)!r}, read_only={self.read_only})"

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def atoms(self) -> Path:
        return self.root / "atoms.png"

    @property
    def usage(self) -> Path:
        return self.root / "usage.json"

    @property
    def summary(self) -> Path:
        return self.root / "summary.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def fits(self) -> Path:
        return self.root / "fits"

    @property
    def samples(self) -> Path:
        return self.root / "samples"

    def fit(self, name: str) -> Path:
        """Folder of the fit `name` (not made here); ValueError if it is no plain folder name."""
        if not isinstance(name, str) or not _FIT_NAME.fullmatch(name):
            raise ValueError(
                f"fit.name={name!r}: letters, digits and any of _ . = + - are allowed, beginning"
                " with a letter, a digit or _, 100 at most"
            )
        return self.fits / name

    def fit_names(self) -> list[str]:
        """Names of the fits in this folder that are complete, sorted."""
        names = (path.parent.name for path in self.fits.glob(f"*/{artefacts.METRICS}"))
        return sorted(name for name in names if not name.startswith("."))

    def write_json(self, path: str | Path, value: Any) -> Path:
        """Writes `value` to `path`, relative to this folder; see artefacts.write_json."""
        self._must_be_writable()
        return artefacts.write_json(self.root / path, value)

    def read_json(self, path: str | Path, schema: Schema | None = None) -> Any:
        """Reads `path`, relative to this folder; see json_files.read."""
        return json_files.read(self.root / path, schema)

    def read_signals(self) -> dict[str, Any]:
        """What the dictionary was learned from. Raises as `json_files.read`."""
        found = self.read_json("signals.json", schemas.SIGNALS)
        if found.get("frame"):
            _check_frame(found["frame"], self.root / "signals.json", "frame")
        return found

    def read_layout(self, name: str) -> dict[str, Any]:
        """How the codes of the fit `name` make signals. Raises as `json_files.read`."""
        path = self.fit(name) / artefacts.METRICS
        layout = json_files.read(path, schemas.FIT)["layout"]
        json_files.check(layout, schemas.LAYOUT, path, "layout")
        if "surface" in layout:
            json_files.check(layout["surface"], schemas.SURFACE, path, "layout.surface")
        if "frame" in layout:
            _check_frame(layout["frame"], path, "layout.frame")
        return layout

    def _must_be_writable(self) -> None:
        if self.read_only:
            raise ValueError(f"{self.root}: opened for reading only")

    def holds_checkpoint(self) -> bool:
        """Whether any checkpoint lies here, good or damaged."""
        return any(path.name.isdecimal() for path in self.checkpoints.glob("*"))

    # The config of the run

    def save_config(self, config: ConfigDict) -> Path:
        """Writes `config` so that `load_config` gives back the same, tuples included.

        But for paths, which become absolute: see `config_json.located`.
        """
        self._must_be_writable()
        text = json.dumps(config_json.encoded(config_json.located(config)), indent=2) + "\n"
        return artefacts.write_text(self.config, text)

    def load_config(self) -> ConfigDict:
        """The config of the run; FileNotFoundError or ValueError if there is none to read."""
        if not self.config.exists():
            raise FileNotFoundError(
                f"{self.config}: no such file, {self.argument} holds no run yet: "
                "train into it first"
            )
        try:
            return config_json.decoded(json_files.read(self.config, {}))
        except TypeError as error:
            raise ValueError(f"{self.config}: is not the config of a run") from error

    def load_fit_config(self, name: str) -> ConfigDict | None:
        """The config that the fit `name` was made with; None where it, or its config, is not there.

        Raises ValueError for a metrics.json that is damaged.
        """
        path = self.fit(name) / artefacts.METRICS
        if not path.exists():
            return None
        metrics = json_files.read(path, {})
        try:
            return config_json.decoded(metrics["config"]) if "config" in metrics else None
        except TypeError as error:
            raise ValueError(f"{path}: is not that of a fit") from error

    def check_same_config(
        self, config: ConfigDict, sections: Sequence[str], ignore: Sequence[str] = ()
    ) -> None:
        """Raises ValueError if this folder's run was made with another config than `config`.

        Compares only `sections`, the keys at the top that define what is learned, without the
        dotted keys in `ignore` (such as 'train.steps'). Does nothing in a folder without a run.
        """
        if not self.config.exists():
            return
        saved, config = self.load_config(), config_json.located(config)
        for section in sections:
            here, there = _plain_get(config, section), _plain_get(saved, section)
            difference = _first_difference(section, there, here, frozenset(ignore))
            if difference is None:
                continue
            key, old, new = difference
            prefix = "--config." if self.argument.startswith("--") else ""
            remedy = f"{prefix}{key}={_typed(old)}" if old is not _ABSENT else f"no {key}"
            raise ValueError(
                f"{self.root}: holds a run with {key}={_typed(old)}, not"
                f" {key}={_typed(new)}: give another {self.argument}, or {remedy}"
            )


def _check_frame(frame, path, inside):
    json_files.check(frame, schemas.FRAME, path, inside)
    for kind in schemas.FRAME:
        for number, scale in enumerate(frame[kind]):
            where = f"{inside}.{kind}[{number}]"
            json_files.check(scale, schemas.SCALE, path, where)
            if set(scale) - set(schemas.SCALE):
                allowed = ", ".join(schemas.SCALE)
                raise ValueError(f"{path}: {where}: {', '.join(scale)}; allowed: {allowed}")


def _lock_of(place: Path) -> Path:
    return place.with_name(f".{place.name}.lock")


def _plain_get(config: ConfigDict, key: str) -> Any:
    value = config.get(key, UNSAID.get(key, _ABSENT))
    return value.to_dict() if isinstance(value, ConfigDict) else value


def _first_difference(key, old, new, ignore):
    """(dotted key, old value, new value) of the first difference, or None."""
    if key in ignore:
        return None
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in [*new, *(name for name in old if name not in new)]:
            found = _first_difference(
                f"{key}.{name}", old.get(name, _ABSENT), new.get(name, _ABSENT), ignore
            )
            if found:
                return found
        return None
    same = old is new or (_sequence(old) == _sequence(new) and _ABSENT not in (old, new))
    return None if same else (key, old, new)


def _sequence(value: Any) -> Any:
    return tuple(map(_sequence, value)) if isinstance(value, list | tuple) else value


def _typed(value: Any) -> str:
    """A value as one would type it on the command line."""
    if value is _ABSENT:
        return "(absent)"
    return value if isinstance(value, str) and value else repr(value).replace(" ", "")
