"""Collections whose signals share no grid: what was measured of each, and what measured it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from nid_jax.coding.operators import Operator, areas
from nid_jax.data import images
from nid_jax.data.collection import IMAGES, image_names, image_of, position


class WaysCollection:
    """S signals, each measured in one of some ways, or all in their own.

    Beside a Collection: .ways, operators, and .way(i), the number of the one that measured signal
    i; [i] is what it measured, float32 [M, C], or of pictures [h, w, C], and shape that of the grid
    that signals are drawn on.

    Args:
      values: of each signal, real numbers [.., C].
      ways: operators, whose numbers of measurements values have.
      way: of each signal, an index of `ways`.
      grid_shape: samples of the grid along each axis.
      names: S distinct labels.
      title: what the collection is, in a few words.

    Raises:
      ValueError: starting with the title, for a signal without measurements, of another number of
        them than its operator makes, of other channels than the first, or with NaN or infinity.
    """

    def __init__(
        self,
        values: Sequence[Float[np.ndarray, "... C"]],
        ways: Sequence[Operator],
        way: Sequence[int],
        grid_shape: Sequence[int],
        names: Sequence[str],
        title: str,
    ):
        self.values, self.ways = values, ways
        self.names, self.title = [str(name) for name in names], title
        if len(set(self.names)) != len(values) or len(way) != len(values) or not len(values):
            raise ValueError(
                f"{title}: {len(values)} signals, {len(way)} ways and {len(set(self.names))} "
                "distinct names; as many of each are wanted, 1 or more"
            )
        channels = values[0].shape[-1]
        self._way = [int(one) for one in way]
        self.shape = (*(int(side) for side in grid_shape), channels)
        low, high = np.inf, -np.inf
        for name, one, number in zip(self.names, values, self._way, strict=True):
            count = ways[number].num_measurements
            if one.size != count * channels or one.shape[-1] != channels or not count:
                raise ValueError(
                    f"{title}: signal {name!r} is {list(one.shape)}; expected {count} measurements "
                    f"of {channels} channels, 1 or more"
                )
            images.check_finite(one, f"{title}, signal {name!r}")
            low, high = min(low, float(one.min())), max(high, float(one.max()))
        self.bounds = (low, high)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Float[np.ndarray, "... C"]:
        return np.asarray(self.values[position(index, len(self))], np.float32)

    def way(self, index: int) -> int:
        """The number of the way that measured a signal."""
        return self._way[position(index, len(self))]


class TurnedPictures:
    """Pictures of several sizes, followed by their mirror images or all of their eight symmetries.

    collection: a Collection of pictures [h, w, C] with .grid(i), their sizes, each of which is
    means over its own pixels of one on the grid of its shape. A turned picture of h x w is one of w
    x h: of a way of its own. Names as `AugmentedCollection` has them.
    """

    def __init__(self, collection: Any, turns: bool):
        self.collection = collection
        self.images = range(len(IMAGES) if turns else 2)
        self.shape, self.title = tuple(collection.shape), collection.title
        words = image_names(len(self.images))
        self.names = [name + word for word in words for name in collection.names]
        grids = [collection.grid(index) for index in range(len(collection))]
        self._grids = [
            grid[::-1] if IMAGES[image][0] else grid for image in self.images for grid in grids
        ]
        sizes = sorted(set(self._grids))
        self.ways = [areas(self.shape[:-1], size) for size in sizes]
        self._way = [sizes.index(grid) for grid in self._grids]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Float[np.ndarray, "h w C"]:
        image, original = divmod(position(index, len(self)), len(self.collection))
        return np.ascontiguousarray(image_of(self.collection[original], image))

    def grid(self, index: int) -> tuple[int, int]:
        """(rows, columns) of a picture."""
        return self._grids[position(index, len(self))]

    def way(self, index: int) -> int:
        """The number of the way that a picture is of."""
        return self._way[position(index, len(self))]


def pictures_of_sizes(
    pictures: Sequence[Float[np.ndarray, "h w C"]],
    names: Sequence[str],
    title: str,
    grid_shape: Sequence[int] = (),
) -> WaysCollection:
    """Pictures of several sizes, each as means over its own pixels of one on a grid.

    grid_shape: (rows, columns) of that; (): the most rows and the most columns there are. Shapes
    are stretched to it. Raises ValueError as `WaysCollection`.
    """
    sizes = sorted({picture.shape[:-1] for picture in pictures})
    if not len(grid_shape):
        grid_shape = tuple(max(sides) for sides in zip(*sizes, strict=True))
    way = [sizes.index(picture.shape[:-1]) for picture in pictures]
    operators = [areas(grid_shape, size) for size in sizes]
    return WaysCollection(pictures, operators, way, grid_shape, names, title)
