"""How close a reconstruction is to the truth."""

import importlib
from typing import Any

from nid_jax.metrics.images import mse, psnr, psnr_from_mse, ssim
from nid_jax.metrics.perceptual import lpips

# Imported when they are asked for: libraries of meshes would keep every command waiting.
_SURFACES = (
    "chamfer",
    "cloud_chamfer",
    "cloud_hausdorff",
    "cloud_normal_consistency",
    "compare",
    "fscore",
    "hausdorff",
    "iou",
    "mesh_iou",
    "normal_consistency",
    "sdf_error",
)

__all__ = [
    "chamfer",
    "cloud_chamfer",
    "cloud_hausdorff",
    "cloud_normal_consistency",
    "compare",
    "fscore",
    "hausdorff",
    "iou",
    "lpips",
    "mesh_iou",
    "mse",
    "normal_consistency",
    "psnr",
    "psnr_from_mse",
    "sdf_error",
    "ssim",
]


def __getattr__(name: str) -> Any:
    if name not in _SURFACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.surfaces"), name)
