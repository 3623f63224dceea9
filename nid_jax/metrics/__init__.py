"""How close a reconstruction is to the truth."""

from nid_jax.metrics.images import mse, psnr, psnr_from_mse, ssim

__all__ = ["mse", "psnr", "psnr_from_mse", "ssim"]
