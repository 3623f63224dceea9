"""Damaged copies of honest files, the same for the same seed."""

import struct
from collections.abc import Iterator

import numpy as np

# What a field of a header may be set to: ends of types, and numbers that overflow products.
_EXTREMES = (0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1)
# Bytes of a file in which its header is looked for.
_HEADER = 512
# Text that stands where a number is wanted.
_WORDS = (b"-1", b"0", b"99999999999", b"1e999", b"nan", b"NaN", b"1e12", b"null", b"[]", b"{}")
_WORDS += (b"[[[[[[", b"'", b'"', b"\0", b"\xff\xfe", b"true", b"9" * 5000)
KINDS = ("cut", "flipped", "extreme", "word", "removed", "repeated", "noise")


def empty_and_wrong(content: bytes, others: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """What needs no draw: nothing, one byte, zeros, text, and files of other kinds."""
    yield "nothing", b""
    yield "one byte", content[:1]
    yield "zeros", bytes(len(content))
    yield "text", b"this is no such file\n" * 3
    yield "all but the last byte", content[:-1]
    yield "more behind", content + content[:64]
    for name, other in others.items():
        yield f"is {name}", other


def mutated(content: bytes, seed: int) -> tuple[str, bytes]:
    """One damaged copy and what was done, by KINDS in turn."""
    draw = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    data = bytearray(content)
    size = len(data)
    if size < 8:
        return "noise", bytes(draw.integers(0, 256, 16, np.uint8))
    # Most of what lies is in the first bytes, or the last, where a zip has its list.
    near = int(draw.integers(0, min(size, _HEADER)))
    end = size - 1 - int(draw.integers(0, min(size, _HEADER)))
    place = (near, end, int(draw.integers(0, size)))[int(draw.integers(0, 3))]
    if kind == "cut":
        return f"cut at {place}", bytes(data[:place])
    if kind == "flipped":
        for _ in range(int(draw.integers(1, 9))):
            data[min(size - 1, place + int(draw.integers(0, 32)))] = int(draw.integers(0, 256))
        return f"flipped at {place}", bytes(data)
    if kind == "extreme":
        number = int(_EXTREMES[int(draw.integers(0, len(_EXTREMES)))])
        width = int(draw.choice([1, 2, 4, 8]))
        order = "<" if draw.integers(0, 2) else ">"
        text = struct.pack(f"{order}Q", number % 2 ** (8 * width))
        field = text[:width] if order == "<" else text[8 - width :]
        place = min(place, size - width)
        data[place : place + width] = field
        return f"{number} of {width} bytes at {place}", bytes(data)
    if kind == "word":
        word = _WORDS[int(draw.integers(0, len(_WORDS)))]
        numbers = [at for at, byte in enumerate(data[: 4 * _HEADER]) if chr(byte).isdigit()]
        place = numbers[int(draw.integers(0, len(numbers)))] if numbers else place
        data[place : place + 1] = word
        return f"{word[:12]!r} at {place}", bytes(data)
    length = int(draw.integers(1, 64))
    if kind == "removed":
        del data[place : place + length]
        return f"{length} bytes removed at {place}", bytes(data)
    if kind == "repeated":
        data[place:place] = data[place : place + length] * int(draw.integers(1, 5))
        return f"{length} bytes repeated at {place}", bytes(data)
    noise = draw.integers(0, 256, length, np.uint8).tobytes()
    data[place : place + length] = noise
    return f"noise at {place}", bytes(data)
