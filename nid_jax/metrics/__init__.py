"""How close a reconstruction is to the truth."""

from nid_jax.metrics.images import mse, psnr, psnr_from_mse, ssim
from nid_jax.metrics.perceptual import lpips
from nid_jax.metrics.surfaces import (
    chamfer,
    cloud_chamfer,
    cloud_hausdorff,
    cloud_normal_consistency,
    compare,
    fscore,
    hausdorff,
    iou,
    mesh_iou,
    normal_consistency,
    sdf_error,
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
