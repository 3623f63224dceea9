"""Commands that draw what a fit or the prior holds: render, interpolate, sample."""

import math
import time

import numpy as np

from nid_jax import notices
from nid_jax.coding import checks as argument_checks
from nid_jax.commands.context import Context, load, say_unused, settle
from nid_jax.errors import ArgumentError, named
from nid_jax.files import atomic_folder
from nid_jax.fitting import code_space, rendering
from nid_jax.reporting import movies, pictures, samples, tables
from nid_jax.reporting.report import write_report
from nid_jax.running import processes
from nid_jax.storage import artefacts


def render(context: Context) -> None:
    """Pictures or meshes of an earlier fit's codes at any resolution; no signal is read.

    Each shape and window has a folder of its own, FIT/render/128x128.
    """
    loaded = load(context)
    processes.once(lambda: _render(context, *loaded))


def _render(context, dictionary, config):
    task = context.build_task(config)
    say_unused(context, config)
    folder = context.workdir.fit(config.fit.name)
    found = dictionary.load_fit(folder / artefacts.CODES)
    layout = context.workdir.read_layout(config.fit.name)
    start = time.perf_counter()
    shape, window = _what_to_render(config.render, layout)
    target = folder / artefacts.RENDER / _view_name(shape, layout, config.render)
    draw = _render_pictures
    if "surface" in layout:
        # Libraries that only runs with surfaces need.
        from nid_jax.fitting import meshing

        meshing.check(config.fit.mesh)
        draw = _render_surfaces
    elif "frame" in layout:
        draw = _render_fields
    with context.workdir.writing(folder), atomic_folder(target) as temporary:
        what = draw(temporary, task, found, layout, config, (shape, window))
    print(f"{what} rendered in {time.perf_counter() - start:.2f} s: {target}")
    print(f"report: {write_report(context.workdir.root)}")


def _view_name(shape, layout, wanted):
    """The name of a render's folder: of what comes out, as patches are put together."""
    if "patch" not in layout:
        return artefacts.view_name(shape, wanted.window)
    if "grid" not in layout:
        return f"times_{wanted.scale}"
    return artefacts.view_name([side * wanted.scale for side in layout["grid"]], ())


def _render_surfaces(folder, task, found, layout, config, view):
    """A mesh and a picture of every shape. -> what was rendered, in words."""
    from nid_jax.reporting import surfaces

    del task
    shape, window = view
    count = surfaces.render_surfaces(folder, found, layout, shape, config, window)
    return f"{tables.counted(count, 'mesh', 'meshes')} at {notices.sides(shape)}"


def _render_fields(folder, task, found, layout, config, view):
    """Every signal over axes in its own coordinates, and its numbers. -> what was rendered."""
    from nid_jax.reporting import maps

    shape, window = view
    for start, stop in rendering.together([1] * len(found), math.prod(shape) * found.channels):
        values = found[start:stop].render(shape, window, config.render.chunk)
        fields = task.assemble(values, layout, scale=config.render.scale, first=start)
        maps.write_fields(folder, fields, layout, window, start)
    return f"{tables.counted(len(found), 'field')} at {notices.sides(shape)}"


def _render_pictures(folder, task, found, layout, config, view):
    """A picture of every signal, frames where it has three axes. -> what was rendered, in words."""
    shape, window = view
    pieces = layout.get("pieces") or [1] * len(found)
    first = 0
    for start, stop in rendering.together(pieces, math.prod(shape) * found.channels):
        chosen = found[first : first + sum(pieces[start:stop])]
        first += len(chosen)
        if not len(chosen):
            break
        values = chosen.render(shape, window, config.render.chunk)
        wholes = task.assemble(values, layout, scale=config.render.scale, first=start)
        for count, image in enumerate(wholes, start):
            target = folder / artefacts.file_name(count, layout["names"][count])
            if image.ndim == 4:
                _save_frames(target, image, config.fit.get("movies", ()))
            else:
                pictures.save_png(target.with_name(f"{target.name}.png"), image)
    if found.known_deviation is not None:
        _render_deviation(folder, task, found, layout, (shape, window), config.render.scale)
    sides = notices.sides(image.shape[:-1])
    if "patch" in layout and "grid" not in layout:
        sides = "several sizes"
    return f"{tables.counted(count + 1, 'signal')} of {sides}"


def interpolate(context: Context) -> None:
    """Signals between two of a fit: frames, or meshes, and a movie of them."""
    loaded = load(context)
    processes.once(lambda: _interpolate(context, *loaded))


def _interpolate(context, dictionary, config):
    folder = context.workdir.fit(config.fit.name)
    found = dictionary.load_fit(folder / artefacts.CODES)
    config = settle(context, (), config, fitted=len(found)).config
    task, wanted = context.build_task(config), config.fit.interpolate
    layout = context.workdir.read_layout(config.fit.name)
    if "patch" in layout:
        raise ValueError("data.patch.size: signals in patches have several codes each; allowed: 0")
    with named("fit.interpolate"):
        path = code_space.path_between(found, wanted.start, wanted.end, wanted.frames)
    target = folder / artefacts.INTERPOLATE / f"{wanted.start:04d}_{wanted.end:04d}"
    view = _what_to_render(config.render, layout)
    with context.workdir.writing(folder):
        _write_path(target, task, path, layout, config.render, view)
    print(f"{wanted.frames} signals from {wanted.start} to {wanted.end}: {target}")
    print(f"report: {write_report(context.workdir.root)}")


def _write_path(target, task, path, layout, wanted, view):
    """The signals of a path, and a movie of them."""
    shape, window = view
    if "surface" in layout:
        from nid_jax.reporting import surfaces

        surfaces.write_sequence(target, path, shape, layout)
        return
    values = path.render(shape, window, wanted.chunk)
    if "frame" in layout:
        from nid_jax.reporting import maps

        frames = maps.shaded(np.asarray(values))
    else:
        frames = task.assemble(values, layout, scale=wanted.scale)
    _save_frames(target, frames, ("gif",))


def sample(context: Context) -> None:
    """New signals drawn from the prior of the dictionary, and a path between two: a sheet, a movie.

    In WORKDIR/samples.
    """
    loaded = load(context, with_prior=True)
    processes.once(lambda: _sample(context, *loaded))


def _sample(context, dictionary, config):
    task, wanted = context.build_task(config), config.sample
    say_unused(context, config)
    with named("sample"):
        drawn = dictionary.sample(wanted.count, wanted.seed)
        path = code_space.path_between(drawn, 0, min(1, len(drawn) - 1), wanted.frames)
    view = _what_to_render(config.render, {"grid": dictionary.grid_shape}, len(drawn))
    target = context.workdir.samples
    with context.workdir.writing(target):
        samples.write_samples(target, drawn, path, view, task.surface, dictionary.frame)
    prior = dictionary.prior
    kind = "one Gaussian"
    if prior is not None and prior.mixture is not None:
        kind = f"a mixture of {len(prior.mixture.weights)} Gaussians"
    known = min(dictionary.config.prior.num_signals, dictionary.signals.get("count", 0))
    kind += f" of the codes of {tables.counted(known, 'signal')}" if known else ""
    print(f"{tables.counted(len(drawn), 'signal')} drawn from {kind}: {target / samples.SHEET}")
    print(f"report: {write_report(context.workdir.root)}")


def _save_frames(folder, frames, formats):
    """FOLDER/00000.png of frames [T, H, W, C] along the first axis, and FOLDER.mp4 or .gif."""
    with atomic_folder(folder) as temporary:
        for number, frame in enumerate(frames):
            pictures.save_png(temporary / f"{number:05d}.png", frame)
    for suffix in formats:
        movies.write_movie(folder.with_name(f"{folder.name}.{suffix}"), frames)


def _render_deviation(folder, task, found, layout, view, scale):
    """Where renders are unsure: standard deviations, white at the largest of all signals."""
    deviations = task.assemble(
        rendering.resampled(found.known_deviation, *view), layout, scale=scale
    )
    largest = max(1e-12, *(image.max() for image in deviations))
    for index, image in enumerate(deviations):
        name = artefacts.file_name(index, layout["names"][index])
        shown = image.mean(-1, keepdims=True) / largest
        pictures.save_png(folder / f"{name}_deviation.png", shown)


def _what_to_render(wanted, layout, signals=1):
    """(samples along each axis, window or None) of config.render; ValueError naming the key.

    signals: that are rendered at a time.
    """
    tile = layout["patch"] if "patch" in layout else layout["grid"]
    shape, window = wanted.shape, wanted.window
    if "patch" in layout and (shape or window):
        raise ValueError("render.shape, render.window: signals in patches take render.scale only")
    shape = tuple(shape) or tuple(side * wanted.scale for side in tile)
    if len(shape) != len(tile):
        raise ArgumentError("render.shape", shape, f"{len(tile)} whole numbers, each 1 or more")
    argument_checks.fits("render.shape", shape, math.prod(shape) * (len(shape) + signals))
    if "patch" in layout:
        return shape, _patch_window(tile, wanted.scale)
    if not window:
        return shape, None
    if len(window) != len(tile):
        allowed = f"{len(tile)} pairs (low, high), where an axis spans -1 to 1"
        raise ArgumentError("render.window", window, allowed)
    return shape, window


def _patch_window(tile, scale):
    """The window of a patch whose every sample becomes `scale` samples centred on it.

    Whole signals end on -1 and 1 at any scale. Patches that did would not meet: neighbours are one
    sample apart, and a patch ends half a sample before its neighbour begins.
    """
    reach = [1 + (1 - 1 / scale) / max(side - 1, 1) for side in tile]
    return tuple((-end, end) for end in reach)
