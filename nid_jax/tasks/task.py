"""What differs between tasks: signals, measurements, losses, metrics, pictures."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nid_jax.errors import ArgumentError
from nid_jax.reporting.panels import Panel, Score


@dataclasses.dataclass(frozen=True)
class Measured:
    """What is known of the signals of a collection: what was measured of each, and with what.

    Signals are functions with C channels, drawn on a grid [*grid]; there are M measurements of a
    signal, more or fewer by the way that it was measured in.
    """

    ways: Sequence[Any]
    """Distinct operators, each of which measured some of the signals; none where nothing but clouds
    is known. Where no two signals are measured alike, one for each of them, which may be made when
    it is asked for."""
    grid_shape: tuple
    channels: int
    values: Callable[[int], np.ndarray] | None
    """Signal's number -> measurements [M, C]; what has no weight is not read and may be NaN."""
    way: Callable[[int], int] | None = None
    """Signal's number -> the number of its way; None: the first, of all of them."""
    weights: Callable[[int], np.ndarray] | None = None
    """Signal's number -> weights [M], 0 where nothing was measured; None: all measured alike."""
    truth: Callable[[int], np.ndarray | None] | None = None
    """Signal's number -> [*grid, C], or None where the truth is not known."""
    hole: Callable[[int], np.ndarray | None] | None = None
    """Whole signal's number, patches put together, -> bool [*grid], where scores are also taken
    apart."""
    cloud: Callable[[int], np.ndarray] | None = None
    """Signal's number -> points on its surface and their normals [Q, 6], where it has a surface."""
    mesh: Callable[[int], Any] | None = None
    """Signal's number -> its surface (trimesh.Trimesh), where that is known."""
    whole: bool = True
    """Whether measurements are the signal's own samples on its grid, as a router wants them."""

    @property
    def operator(self) -> Any:
        """What measured all of the signals; None where nothing but clouds is known.

        Raises ArgumentError where they were measured in several ways.
        """
        if len(self.ways) > 1:
            raise ArgumentError("ways", f"{len(self.ways)} ways of measuring", "1 for all signals")
        return self.ways[0] if len(self.ways) else None

    @property
    def alike(self) -> bool:
        """Whether all signals were measured as one, and all that was measured of them is known."""
        return self.way is None and self.weights is None

    def way_of(self, index: int) -> int:
        """The number of the way that a signal was measured in."""
        return 0 if self.way is None else self.way(index)

    def truths(self, count: int) -> np.ndarray | None:
        """Truth of the first signals [count, *grid, C], or None where one of them has none."""
        found = [self.truth(index) if self.truth else None for index in range(count)]
        known = [one for one in found if one is not None]
        return np.stack(known) if len(known) == count else None


@dataclasses.dataclass(frozen=True)
class Extras:
    """What a task makes of a fit besides its reconstruction."""

    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Further numbers for metrics.json."""
    panels: Sequence[Panel] = ()
    """What is shown of the first signals (of a movie's frames: of some), in the order of rows."""
    columns: Sequence[str] = ()
    """Names of the panels' columns; () are those of the signals."""
    frames: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    """Name -> [T, H, W, C] in [0, 1]: written as pictures, and side by side as a movie."""
    frame_rate: float = 0.0
    """Frames a second of their movie; 0: not known."""
    draw: Callable[[Path, int], Any] | None = None
    """Writes pictures/ of a signal, (path, index), where they are other than its panels."""
    unit: bool = True
    """Whether values are those of pictures, from 0 (black) to 1 (white)."""


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A cheap way to the first of the signals that were fitted."""

    name: str
    """Of its row in the table: 'biharmonic, told the hole'."""
    about: str
    """What it does, and what it knows that the fit does not, in sentences."""
    make: Callable[[], tuple[Any, Mapping[str, Any]]]
    """-> whole signals as the reconstruction is, and some of the task's scores: values per signal,
    or one number of all."""
    shown: bool = True
    """Whether its signals are pictured; one that is the same for all of them need not be."""
    label: str = ""
    """Of its pictures, in a word or two; '' is the name."""

    @property
    def key(self) -> str:
        """What its pictures are known by."""
        return self.label or self.name


@dataclasses.dataclass(frozen=True)
class Baselines:
    """What a fit is compared with, on the same measurements of the same signals.

    Raises ArgumentError for two methods of one name or of one label.
    """

    signals: int
    """The first so many of the whole signals."""
    methods: Sequence[Baseline]
    own: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Scores of the fit on those signals which metrics.json does not have of each."""

    def __post_init__(self):
        for given in ([one.name for one in self.methods], [one.key for one in self.methods]):
            if len(set(given)) < len(given):
                raise ArgumentError("methods", ", ".join(given), "a name and a label of each")


@dataclasses.dataclass(frozen=True)
class Task:
    """A task, as training, fitting and rendering see it.

    Everything is a plain function, so that a new task is a new file in this folder and no change
    in training, fitting or rendering.
    """

    name: str
    open: Callable[[str], Any]
    """Split name -> Collection."""
    batches: Callable[[Any], Any]
    """Collection -> endless checkpointable iterator of {'ids': [B], 'signals': [B, *shape]}, or
    with 'points' [P, D], where signals [B, P, C] are, and 'clouds' [B, Q, 6]."""
    learned_from: Callable[[Any], Measured]
    """Training collection -> what training sees of it; its signals hold the measurements."""
    measure: Callable[[Any], Measured]
    """Collection to fit -> what a fit is given of it."""
    objective: Callable
    """(prediction, target, gates) -> (loss, terms); see `losses.Objective`."""
    assemble: Callable
    """(values [S, *grid, C], layout) -> whole signals [N, *whole, C], a list where their sizes
    differ: patches are blended."""
    layout: Callable[[Any], dict]
    """Collection -> what `assemble` needs to know of it, in JSON types; under 'frame', where
    signals have coordinates and units of their own, `data.Frame.as_json`; under 'surface', where
    signals have one: its truncation, 'units' in words and, per signal, 'denormalise' [4, 4]
    and the axis 'up'."""
    metrics: Callable
    """(reconstruction, truth, both whole signals, Measured) -> {name: values per signal}."""
    order: Callable[[Any], Any] | None = None
    """Collection -> the same iterator of 'ids' alone, where batches are signals of the collection
    as they are; None: they are drawn or made otherwise."""
    ranked_by: str = "psnr"
    """The metric, of `metrics`, whose highest value makes a checkpoint the best."""
    scores: Sequence[Score] = ()
    """Numbers of metrics.json that people look for first, in the order shown; what a fit does not
    have is left out."""
    held_out: Callable | None = None
    """(collection, Measured, Fit) -> {name: values per signal, NaN where not known, or one number
    of all}: scores at measurements that the fit was not given."""
    extras: Callable | None = None
    """(collection, Measured, Fit, reconstruction, truth or None, {label: signals of a baseline}) ->
    `Extras` of a fit."""
    baselines: Callable[..., Baselines | None] | None = None
    """(collection, Measured, Fit, prior or None, n) -> `Baselines` of the first n whole signals at
    most: what is cheap and usual in the field; None where there is nothing of the kind."""
    describe: Callable[[Any, Measured, int], str] | None = None
    """(collection, Measured, number of signals) -> in sentences, what was measured of them."""
    advice: Callable[[Any, float], str] | None = None
    """(collection, relative residual) -> a question: what it may mean that a fit leaves so much of
    the measurements; '' where that is not much, or nothing is known."""
    surface: Mapping[str, Any] | None = None
    """Of signals that have a surface, how one is drawn that no collection knows: 'truncation' of
    the distances and the axis 'up'."""
