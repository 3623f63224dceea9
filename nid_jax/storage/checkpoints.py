"""Checkpoints: saved in the background, verified leaf by leaf, never trusted blindly.

A step folder holds one orbax item for each named pytree (a fit restores 'model' without ever
building an optimizer), the state of the data iterator, and a manifest: shape, dtype and CRC-32 of
every leaf, the metrics, and whatever the caller adds. The storage layer restores a flipped byte
without complaint; the manifest is what notices.

The checksums are taken on the host inside `save`: about 0.4 ms for each MB on one CPU core, plus
one copy from the device, which the save needs anyway. Writing goes on in the background.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grain.checkpoint
import jax
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils

from nid_jax.running import processes
from nid_jax.storage import manifest, trees
from nid_jax.storage.manifest import CheckpointError, Damaged
from nid_jax.storage.quiet_orbax import QuietOrbax, collect_abandoned_reads

# What operating systems say when a disk refuses to take more; found again in longer messages.
_DISK_REASONS = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    "Permission denied",
    "Read-only file system",
)


@dataclass(frozen=True)
class Restored:
    """What `Checkpoints.restore` found.

    `items` are pytrees shaped like the templates; `skipped` has one readable line for each
    damaged checkpoint that was passed over.
    """

    step: int
    items: dict[str, Any]
    metrics: dict[str, float]
    meta: dict[str, Any]
    skipped: list[str]


class Checkpoints:
    """The checkpoints of one run in one folder: the latest few and the best few are kept.

    `directory` may be relative. `read_only` never creates, moves or deletes anything, and accepts
    a folder that does not exist (it then holds no checkpoint). `best_mode` is 'max' or 'min'.
    Raises CheckpointError if the folder cannot be used.
    """

    def __init__(
        self,
        directory: str | Path,
        keep_latest: int = 2,
        keep_best: int = 1,
        best_metric: str = "psnr",
        best_mode: str = "max",
        read_only: bool = False,
    ):
        if keep_latest < 1 or keep_best < 0:
            raise ValueError(
                f"keep_latest={keep_latest} must be at least 1, keep_best={keep_best} at least 0"
            )
        if best_mode not in ("max", "min"):
            raise ValueError(f"best_mode={best_mode!r} must be 'max' or 'min'")
        self.directory = Path(directory).expanduser().absolute()
        self.read_only = read_only
        self._ranking = _Ranking(self._metrics_of, keep_latest, keep_best, best_metric, best_mode)
        self._metrics: dict[int, dict[str, float]] = {}
        self._damaged: set[int] = set()
        self._saving: int | None = None
        if self.directory.exists() and not self.directory.is_dir():
            raise CheckpointError(
                f"{self.directory}: is a file, a folder of checkpoints belongs here"
            )
        self._quiet = QuietOrbax()
        self._quiet.install()
        try:
            if not read_only:
                self.directory.mkdir(parents=True, exist_ok=True)
            self._manager = self._open()
        # Of damaged descriptions of checkpoints storage raises what they lead it to.
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            self._quiet.remove()
            raise CheckpointError(f"{self.directory}: {_reason(error)}") from error

    def _open(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            create=False,
            read_only=self.read_only,
            save_interval_steps=0 if self.read_only else 1,
            save_root_metadata=False,
            # What a killed save leaves behind goes when the folder is next opened for writing.
            cleanup_tmp_directories=not self.read_only,
            preservation_policy=self._ranking,
        )
        return ocp.CheckpointManager(self.directory, options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            self.close()
        except CheckpointError as failure:
            if error is None:
                raise
            logging.error("%s", failure)  # the error under way is the one to show

    # Looking

    def all_steps(self) -> list[int]:
        """Steps with a folder on disk, ascending, damaged ones included; waits for a save."""
        self.wait()
        return self._steps_on_disk()

    def _steps_on_disk(self) -> list[int]:
        if not self.directory.is_dir():
            return []
        found = (path for path in self.directory.iterdir() if path.name.isdecimal())
        return sorted(int(path.name) for path in found if path.is_dir())

    def latest_step(self) -> int | None:
        """The last step on disk, or None."""
        steps = self.all_steps()
        return steps[-1] if steps else None

    def _metrics_of(self, step: int) -> dict[str, float]:
        if step not in self._metrics:
            try:
                self._metrics[step] = manifest.read(self.directory / str(step))["metrics"]
            except Damaged:
                return {}
        return self._metrics[step]

    # Saving

    def save(
        self,
        step: int,
        items: Mapping[str, Any],
        data_iterator: Any = None,
        metrics: Mapping[str, float] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> bool:
        """Starts to save `items` (name -> pytree of arrays) as the checkpoint of `step`.

        Returns as soon as the arrays may be donated or changed; False if the checkpoint of this
        step already holds exactly this. `data_iterator` is a grain iterator; `meta` is JSON.
        A checkpoint found damaged on restore is moved to STEP.damaged first, so that it neither
        stands in the way nor counts among the latest. Raises CheckpointError if this save, or the
        one before it, does not reach the disk.
        """
        if self.read_only:
            raise CheckpointError(f"{self.directory}: opened for reading only, cannot save")
        self.wait()
        self._move_damaged_aside()
        for name in items:
            if name in (manifest.NAME, manifest.ITERATOR):
                raise ValueError(f"item name {name!r} is taken, choose another")
        stored = {name: trees.nested(name, tree) for name, tree in items.items()}
        content = manifest.make(step, items, data_iterator, metrics or {}, meta or {})
        if step in self._steps_on_disk():
            if self._holds(step, content):
                return False
            self._manager.delete(step)
        args = {name: ocp.args.StandardSave(tree) for name, tree in stored.items() if tree}
        args[manifest.NAME] = ocp.args.JsonSave(manifest.signed(content))
        if data_iterator is not None:
            args[manifest.ITERATOR] = grain.checkpoint.CheckpointSave(data_iterator)
        self._metrics[step] = content["metrics"]
        self._saving = step
        try:
            self._manager.save(step, args=ocp.args.Composite(**args), force=True)
        except OSError as error:
            raise self._save_failed(error) from error
        return True

    def _holds(self, step: int, content: dict) -> bool:
        try:
            return manifest.read(self.directory / str(step)) == content
        except Damaged:
            return False

    def _move_damaged_aside(self) -> None:
        if not self._damaged:
            return
        if processes.first():
            for step in sorted(self._damaged):
                source = self.directory / str(step)
                aside = self.directory / f"{step}.damaged"
                if source.exists():
                    shutil.rmtree(aside, ignore_errors=True)
                    source.rename(aside)
                    logging.warning("damaged checkpoint of step %d moved to %s", step, aside)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("nid_jax damaged checkpoints moved")
        self._damaged.clear()
        self._manager.reload()

    def wait(self) -> None:
        """Waits until the save under way is on disk; raises CheckpointError if it failed."""
        if self._manager is None:
            return
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # whatever broke the save, the loop must hear that it failed
            raise self._save_failed(error) from error
        self._saving = None

    def _save_failed(self, error: Exception) -> CheckpointError:
        step, self._saving = self._saving, None
        self._metrics.pop(step, None)
        if processes.first():
            self._remove_half_written(step)
        self._manager.reload()
        return CheckpointError(
            f"{self.directory}: the checkpoint of step {step} could not be saved: {_reason(error)}"
        )

    def _remove_half_written(self, step: int | None) -> None:
        """Gives back the space that a failed save holds."""
        absent = 0
        for _ in range(40):
            leftovers = list(self.directory.glob(f"{step}.orbax-checkpoint-tmp*"))
            for leftover in leftovers:
                shutil.rmtree(leftover, ignore_errors=True)
            absent = 0 if leftovers else absent + 1
            if absent == 3:  # the other leaves' writers may still be adding to it
                return
            time.sleep(0.02)

    def close(self) -> None:
        """Waits for the save under way and releases the threads; may be called twice."""
        if self._manager is None:
            return
        try:
            self.wait()
        finally:
            self._manager.close()
            self._manager = None
            self._quiet.remove()

    # Restoring

    def restore(
        self,
        templates: Mapping[str, Any],
        step: int | str = "latest",
        data_iterator: Any = None,
    ) -> Restored:
        """Restores the named items and, if given, moves `data_iterator` to where it was.

        `templates`: name -> pytree of jax.ShapeDtypeStruct (with sharding, or on the first local
        device) or of arrays; items not named are neither read nor verified. `step`: 'latest',
        'best' or a step. With 'latest' and 'best' a damaged checkpoint is reported and the next
        one, latest or best first, is tried; a step asked for by number is never replaced.
        Raises CheckpointError if there is no checkpoint, no good one, or one of another shape.
        """
        skipped: list[str] = []
        damage = None
        candidates = self._candidates(step)
        for candidate in candidates:
            try:
                items, content = self._restore_step(candidate, templates, data_iterator)
            except PermissionError as error:
                raise CheckpointError(f"{self.directory}: {_reason(error)}") from error
            except Damaged as found:
                if self.read_only and isinstance(step, str) and self._others_since(candidates):
                    return self.restore(templates, step, data_iterator)
                damage = found
                line = f"{self.directory / str(candidate)}: damaged checkpoint skipped: {damage}"
                logging.warning("%s", line)
                skipped.append(line)
                self._damaged.add(candidate)
                continue
            return Restored(candidate, items, content["metrics"], content["meta"], skipped)
        if isinstance(step, int):
            raise CheckpointError(
                f"{self.directory}: the checkpoint of step {step} is damaged: {damage}"
            ) from damage
        raise CheckpointError(
            f"{self.directory}: none of its {len(skipped)} checkpoints is good, the last one tried"
            f" says: {damage}; train again in another workdir or remove this folder"
        ) from damage

    def _others_since(self, steps: list[int]) -> bool:
        """Whether a training beside has saved other steps, and let go of some of these."""
        self._manager.reload()
        there = set(self._steps_on_disk())
        return bool(there - set(steps)) and not there.issuperset(steps)

    def _candidates(self, step: int | str) -> list[int]:
        steps = self.all_steps()
        if not steps:
            raise CheckpointError(
                f"{self.directory}: no checkpoint here: train first, or give the folder of a run"
            )
        if step == "latest":
            return steps[::-1]
        if step == "best":
            return self._ranking.best_first(steps)
        if isinstance(step, str):
            raise CheckpointError(
                f"checkpoint step {step!r}: 'latest', 'best' or a number is allowed"
            )
        if step not in steps:
            raise CheckpointError(
                f"{self.directory}: no checkpoint of step {step}, there are {_listed(steps)}"
            )
        return [int(step)]

    def _restore_step(self, step, templates, data_iterator) -> tuple[dict[str, Any], dict]:
        folder = self.directory / str(step)

        def described():
            content = manifest.read(folder)
            for name, template in templates.items():
                manifest.compare(folder, name, template, content)
            if data_iterator is None:
                return content, None
            return content, manifest.iterator_state(folder, content)

        content, state = _undamaged(described)
        items = _undamaged(lambda: self._read_items(step, templates, content))
        if data_iterator is not None:
            # Not through grain, which wants as many processes as have saved it.
            found = json.dumps(state, indent=4).encode()
            data_iterator.set_state(
                found if isinstance(data_iterator.get_state(), bytes) else state
            )
        return items, content

    def _read_items(self, step, templates, content) -> dict[str, Any]:
        wanted = {}
        for name, template in templates.items():
            tree = trees.nested(name, jax.tree.map(trees.placed, template))
            if tree and not (self.directory / str(step) / name).is_dir():
                raise Damaged(f"item {name!r} is missing")
            if tree:
                wanted[name] = tree
        args = ocp.args.Composite(**{n: ocp.args.StandardRestore(t) for n, t in wanted.items()})
        read, reason = {}, None
        try:
            read = self._manager.restore(step, args=args) if wanted else {}
        except (MemoryError, PermissionError, jax.errors.JaxRuntimeError):
            raise  # these say nothing about the files
        except Exception as error:  # storage raises nearly anything on damaged files
            reason = f"its data cannot be read ({_reason(error)})"
        if reason is not None:
            collect_abandoned_reads()
            raise Damaged(reason)
        items = {}
        for name, template in templates.items():
            items[name] = trees.unnested(template, read[name] if name in wanted else {})
            manifest.verify(name, items[name], content)
        return items


def _undamaged(work):
    """What `work` gives, where it raises Damaged in no process; else Damaged in all of them.

    One alone must not walk back to another step: the others would wait for it forever.
    """

    def attempt():
        try:
            return work(), None
        except Damaged as damage:
            return None, damage

    found, damage = processes.together(attempt)
    if not processes.everywhere(damage is None):
        raise damage or Damaged("damaged for another process")
    return found


class _Ranking:
    """Preservation policy: the last few saved, and the best few by one metric.

    A checkpoint without that metric, or with NaN, ranks below every other.
    """

    def __init__(self, metrics_of, keep_latest: int, keep_best: int, metric: str, mode: str):
        self._metrics_of = metrics_of
        self._keep_latest = keep_latest
        self._keep_best = keep_best
        self._metric = metric
        self._sign = 1.0 if mode == "max" else -1.0

    def _score(self, step: int) -> float:
        value = self._sign * self._metrics_of(step).get(self._metric, math.nan)
        return -math.inf if math.isnan(value) else value

    def best_first(self, steps: list[int]) -> list[int]:
        return sorted(steps, key=lambda step: (self._score(step), step), reverse=True)

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        del context
        steps = [info.step for info in checkpoints]
        scored = [step for step in steps if self._score(step) > -math.inf]
        kept = {*steps[-self._keep_latest :], *self.best_first(scored)[: self._keep_best]}
        return [step in kept for step in steps]


def _reason(error: BaseException) -> str:
    """The one line of an exception that says why, without storage's file specifications."""
    text = str(error)
    for known in _DISK_REASONS:
        if known in text:
            return known
    first = (text.splitlines() or [""])[0]
    for verbose in (" [tensorstore_spec", ". See full TensorStore"):
        first = first.split(verbose)[0]
    return f"{type(error).__name__}: {first[:200]}" if first else type(error).__name__


def _listed(steps: list[int]) -> str:
    return ", ".join(map(str, steps[-8:])) if len(steps) <= 8 else f"... {_listed(steps[-8:])}"
