"""Pictures as files, for tests that read folders."""

import numpy as np
from PIL import Image


def make_photos(folder, count=10, size=(25, 25), seed=0, gray=True):
    """Smooth pictures as PNG files."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    rows, columns = np.meshgrid(*(np.linspace(0, 1, n) for n in size), indexing="ij")
    for number in range(count):
        a, b, c = generator.uniform(1, 5, 3)
        picture = 0.5 + 0.2 * np.sin(a * rows + c) + 0.2 * np.cos(b * columns)
        pixels = (255 * picture).astype(np.uint8)
        if not gray:
            pixels = np.stack([pixels, pixels[::-1], 255 - pixels], -1)
        Image.fromarray(pixels).save(folder / f"photo_{number:02d}.png")
    return folder
