"""Frames out of video files and into them, by the ffmpeg program that imageio-ffmpeg brings.

The program is started here and not by imageio, which forks this process to do so: beside JAX's
threads that may hang, and JAX warns of it.
"""

from __future__ import annotations

import collections
import contextlib
import math
import re
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from jaxtyping import UInt8

from nid_jax import bounds

_STREAM = re.compile(r"^\s*(?:\[info\]\s*)?Stream #0:\d+.*?: (\w+):", re.MULTILINE)
_RATE = re.compile(r"Stream #0:\d+.*?: Video:.*?, ([\d.]+) fps")
_ENDED = b"ENDHDR\n"
# Of H.264's scale from 0 (exact) to 51.
_CONSTANT_RATE = 10


class Unreadable(Exception):
    """The file holds no video that ffmpeg can decode."""


class Heard(NamedTuple):
    """What ffmpeg said of a file: how many streams of each kind, how many complaints.

    status: that it ended with, 0 where no more of the file was wanted; negative: a signal.
    """

    streams: dict[str, int]
    errors: int
    status: int = 0


def program() -> str:
    """The path of ffmpeg. Raises ImportError or RuntimeError where there is none."""
    import imageio_ffmpeg  # type: ignore[import-untyped]

    return imageio_ffmpeg.get_ffmpeg_exe()


def read(path: Path, heard: list[Heard]) -> Generator[UInt8[np.ndarray, "H W 4"], None, None]:
    """Frames of a file's first video stream as they are stored, none repeated or left out.

    Turned as the file says; the last channel is alpha. heard: what was said of the file is added
    to it, once the frames have been read or no more are wanted. Raises `Unreadable`.
    """
    command = [program(), "-nostdin", "-hide_banner", "-loglevel", "level+info", *_input(path)]
    # V: pictures of a cover are no video. A frame's time decides nothing.
    command += ["-map", "0:V:0", "-fps_mode", "passthrough"]
    command += ["-f", "image2pipe", "-c:v", "pam", "-pix_fmt", "rgba", "-"]
    with tempfile.TemporaryFile() as said:
        frames = status = 0
        with _started(command, stdout=subprocess.PIPE, stderr=said) as process:
            assert process.stdout is not None
            try:
                while (frame := _picture(process.stdout)) is not None:
                    frames += 1
                    yield frame
                status = process.wait()
            finally:
                said.seek(0)
                heard.append(_heard(said.read().decode(errors="replace"), status))
    if not frames:
        raise Unreadable


def frame_rate(path: Path) -> float:
    """Frames a second that a file says of its first video stream; 0 where it says none."""
    command = [program(), "-nostdin", "-hide_banner", *_input(path)]
    with _started(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        # Without an output the program says what there is, and fails.
        said = process.communicate()[1].decode(errors="replace")
    found = _RATE.search(said)
    return float(found[1]) if found else 0.0


def _input(path: Path) -> list[str]:
    """Options that name a file: itself, whatever its name looks like, and no other that it names.

    Memory that it asks for is bounded.
    """
    most = str(min(bounds.most_bytes(), 2**31 - 1))
    return ["-max_alloc", most, "-protocol_whitelist", "file", "-i", f"file:{path}"]


def _picture(stream: IO[bytes]) -> UInt8[np.ndarray, "H W 4"] | None:
    """The next picture of a stream of PAM, None at its end or where it breaks off."""
    header = b""
    while not header.endswith(_ENDED):
        line = stream.readline()
        if not line:
            return None
        header += line
    fields = dict(line.split(maxsplit=1) for line in header.splitlines() if b" " in line)
    shape = int(fields[b"HEIGHT"]), int(fields[b"WIDTH"]), int(fields[b"DEPTH"])
    size = math.prod(shape)
    if size > bounds.most_bytes():
        raise Unreadable
    pixels = stream.read(size)
    if len(pixels) < size:
        return None
    return np.frombuffer(pixels, np.uint8).reshape(shape)


def _heard(text: str, status: int) -> Heard:
    kinds = collections.Counter(_STREAM.findall(text.split("Output #0")[0]))
    return Heard(dict(kinds), len(re.findall(r"\[(?:error|fatal)\]", text)), status)


def write(path: Path, frames: UInt8[np.ndarray, "T H W 3"], fps: float) -> None:
    """Write frames of even sides as H.264. Raises ValueError naming a file that cannot be."""
    rows, columns = frames.shape[1:3]
    command = [program(), "-hide_banner", "-loglevel", "error", "-y"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{columns}x{rows}", "-r", f"{fps:g}"]
    command += ["-i", "-", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", str(_CONSTANT_RATE)]
    with tempfile.TemporaryFile() as said:
        with _started([*command, str(path)], stdin=subprocess.PIPE, stderr=said) as process:
            assert process.stdin is not None
            # Where ffmpeg has given up, what it said tells more than the broken pipe.
            with contextlib.suppress(BrokenPipeError):
                for frame in frames:
                    process.stdin.write(np.ascontiguousarray(frame))
                process.stdin.close()
            status = process.wait()
        if status:
            said.seek(0)
            words = said.read().decode(errors="replace").strip().splitlines()
            raise ValueError(f"{path}: ffmpeg: {words[-1] if words else f'status {status}'}")


@contextlib.contextmanager
def _started(command: list[str], **pipes) -> Iterator[subprocess.Popen]:
    """ffmpeg in a process group of its own, as Ctrl-C is for us; ended with the block."""
    process = subprocess.Popen(command, process_group=0, **pipes)
    try:
        yield process
    finally:
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        if process.poll() is None:
            process.kill()
        process.wait()
