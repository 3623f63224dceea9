"""How close a reconstruction is to the truth."""

from nid_jax.metrics.images import mse, psnr, psnr_from_mse, ssim
from nid_jax.metrics.perceptual import lpips

__all__ = ["lpips", "mse", "psnr", "psnr_from_mse", "ssim"]
