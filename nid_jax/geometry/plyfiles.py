"""Headers of PLY files, held to the size of their file before plyfile makes room for what they say.

Letters: n rows of an element.
"""

from pathlib import Path

# Of types by their old and new names, bytes.
_SIZES = {
    **dict.fromkeys(("char", "uchar", "int8", "uint8"), 1),
    **dict.fromkeys(("short", "ushort", "int16", "uint16"), 2),
    **dict.fromkeys(("int", "uint", "float", "int32", "uint32", "float32"), 4),
    **dict.fromkeys(("double", "float64"), 8),
}
_MOST_HEADER = 2**20


def check_counts(path: str | Path) -> None:
    """Raise ValueError of one line where elements have more rows than their file has room for.

    What else is wrong with a header is plyfile's to say.
    """
    path = Path(path)
    with path.open("rb") as file:
        header, found, _ = file.read(_MOST_HEADER).partition(b"end_header")
    if not found:
        raise ValueError("its header has no end")
    text = b"format ascii" in header
    elements: list[list[int]] = []  # rows, and bytes of one at least
    for line in header.decode("latin-1").splitlines():
        words = line.split()
        if words[:1] == ["element"] and len(words) == 3:
            if not words[2].isdecimal() or len(words[2]) > 18:
                raise ValueError(f"element {words[1][:40]!r} has {words[2][:40]!r} rows")
            elements.append([int(words[2]), 0])
        elif words[:1] == ["property"] and len(words) > 2 and elements:
            # A list has its length at least, and a number of text something behind it.
            kind = words[2] if words[1] == "list" else words[1]
            elements[-1][1] += 2 if text else _SIZES.get(kind, 1)
    # A row without properties takes nothing, but somebody counts to it.
    least = sum(rows * max(1, row) for rows, row in elements) - text
    size = path.stat().st_size
    if least > size:
        raise ValueError(f"its header announces {least} bytes or more; the file has {size}")
