from .collection import (
    ArrayCollection,
    AugmentedCollection,
    Collection,
    SubsetCollection,
    holed,
    to_array,
)
from .corrupted import CorruptedCollection
from .decoding import kept_in
from .defaults import completed
from .frames import Frame, Scale
from .kspace import read_kspace
from .loading import batches
from .opening import open_collection
from .patches import PatchCollection, patch_corners, stitch
from .phantoms import project
from .scattered import PointsCollection, take_frame
from .sinogram_folder import open_sinograms
from .sinograms import add_noise, even_angles, read_sinograms, say_doubts
from .sources import POINTS, SHAPES
from .splitting import SPLITS, configured_size, wanted
from .surveying import Survey, survey
from .video import frame_rate
from .views import VIEWS, visible_points
from .volume_batches import Sampling, cloud_batches, point_batches
from .warps import WarpedVolumes
from .ways import WaysCollection, pictures_of_sizes

__all__ = [
    "ArrayCollection",
    "AugmentedCollection",
    "Collection",
    "CorruptedCollection",
    "Frame",
    "POINTS",
    "PatchCollection",
    "PointsCollection",
    "SHAPES",
    "SPLITS",
    "Sampling",
    "Scale",
    "SubsetCollection",
    "Survey",
    "VIEWS",
    "WarpedVolumes",
    "WaysCollection",
    "add_noise",
    "batches",
    "cloud_batches",
    "completed",
    "configured_size",
    "even_angles",
    "frame_rate",
    "holed",
    "kept_in",
    "open_collection",
    "open_sinograms",
    "patch_corners",
    "pictures_of_sizes",
    "point_batches",
    "project",
    "read_kspace",
    "read_sinograms",
    "say_doubts",
    "stitch",
    "survey",
    "take_frame",
    "to_array",
    "visible_points",
    "wanted",
]
