"""Copies of pictures, turned, stretched and moved a little: what else a camera might have seen."""

import numpy as np
import scipy.ndimage
from jaxtyping import Float

from nid_jax.data.collection import Collection, position


class MovedPictures:
    """`collection` followed by `copies` of each picture, moved by small affine maps.

    Names 'x/warp1'. Each copy is turned by an angle, stretched along both axes and moved, all drawn
    from normal distributions, and interpolated by cubic splines, within the values of the picture;
    beyond its edge a picture is its mirror image. Copies are a function of (seed, picture, copy)
    alone.

    Args:
      copies: of each picture.
      rotation: standard deviation of the angle, radians.
      zoom: that of the logarithm of each axis' stretch.
      move: that of the displacement along each axis, samples.

    Raises:
      ValueError: naming the key of data.augment, for a number below 0, a rotation above pi, a
        zoom above 1, a move beyond the shorter side, and for signals that are no pictures.
    """

    def __init__(
        self,
        collection: Collection,
        copies: int,
        rotation: float,
        zoom: float,
        move: float,
        seed: int,
    ):
        if not copies >= 0:
            raise ValueError(f"data.augment.warps: {copies}; allowed: 0 or more")
        if len(collection.shape) != 3:
            raise ValueError(
                f"data.augment.warps: {copies}; allowed: 0 for signals of {collection.shape}"
            )
        # Of larger ones copies show nothing that is in the picture.
        for key, value, most in (
            ("rotation", rotation, round(np.pi, 4)),
            ("zoom", zoom, 1),
            ("move", move, min(collection.shape[:2])),
        ):
            if not 0 <= value <= most:
                raise ValueError(f"data.augment.{key}: {value}; allowed: 0 to {most}")
        self.collection, self.copies, self.seed = collection, copies, seed
        self.rotation, self.zoom, self.move = rotation, zoom, move
        self.shape = tuple(collection.shape)
        suffixes = ["", *(f"/warp{copy + 1}" for copy in range(copies))]
        self.names = [name + suffix for suffix in suffixes for name in collection.names]
        self.title = f"{collection.title}, {copies} moved copies"

    def __len__(self) -> int:
        return len(self.names)

    def affine(self, copy: int, original: int) -> tuple[np.ndarray, np.ndarray]:
        """Matrix [2, 2] and offset [2], samples of the copy to those of the original."""
        draw = np.random.default_rng([self.seed, 5, original, copy])
        angle = self.rotation * draw.standard_normal()
        stretch = np.exp(self.zoom * draw.standard_normal(2))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = turn * stretch
        centre = (np.array(self.shape[:2]) - 1) / 2
        return matrix, centre - matrix @ centre + self.move * draw.standard_normal(2)

    def __getitem__(self, index: int) -> Float[np.ndarray, "H W C"]:
        copy, original = divmod(position(index, len(self)), len(self.collection))
        picture = self.collection[original]
        if not copy:
            return picture
        matrix, offset = self.affine(copy, original)
        # Splines overshoot beside edges, to values that no picture of this range has.
        channels = [
            scipy.ndimage.affine_transform(channel, matrix, offset, order=3, mode="mirror").clip(
                channel.min(), channel.max()
            )
            for channel in np.moveaxis(picture, -1, 0)
        ]
        return np.stack(channels, -1)
