# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Slices from few views
#
# What was measured of a signal is an operator. The rays of a scanner integrate the continuous
# signal; a fit solves for the code along them.

# %%
import matplotlib.pyplot as plt
import numpy as np
from skimage.transform import iradon, radon

import nid_jax as nid
from nid_jax.baselines import tomography
from nid_jax.configs import ct

SMALL = False  # smaller sizes, for a test of this page

# %%
config = ct.get_config("smoke" if SMALL else "cpu")
if not SMALL:
    config.data.update({"size": (32, 32), "num_train": 1500})
    config.dictionary.num_experts = 512
    config.train.steps = 30
    config.prior.num_signals = 1500
phantoms = nid.learn(config)
shape = phantoms.grid_shape
slices = np.asarray(nid.data.to_array(nid.data.open_collection(config.data, "test", 0)))[:4]

# %% [markdown]
# ## Eight views
#
# Sinograms as scikit-image makes them of the pixels, [detectors, angles].

# %%
views = 8
angles = np.arange(views) * 180 / views
columns = np.stack([radon(one[..., 0], angles, circle=True) for one in slices.astype(float)])
rays = nid.operators.parallel_beam(shape, views, convention="skimage")
sinograms = columns.transpose(0, 2, 1).astype(np.float32)  # [S, views, detectors]
fit = phantoms.fit(sinograms, rays, solver=nid.Gaussian(noise=0.3))
print(fit.message)

# %%
back = np.stack([iradon(one, angles, output_size=shape[0]) for one in columns])
passes = tomography.passes(views)
sart = np.stack([tomography.sart(one.T, angles, passes) for one in columns])


def psnr(pictures):
    return float(np.mean(nid.metrics.psnr(np.clip(pictures, 0, 1), slices)))


found = np.asarray(fit.render())
print(
    f"dictionary {psnr(found):.1f} dB, SART {psnr(sart[..., None]):.1f} dB, filtered back "
    f"projection {psnr(back[..., None]):.1f} dB"
)

# %%
rows = {"slice": slices[..., 0], "dictionary": found[..., 0], "SART": sart, "back projection": back}
figure, axes = plt.subplots(len(rows), len(slices), figsize=(6, 6))
for line, (name, pictures) in zip(axes, rows.items(), strict=True):
    for axis, picture in zip(line, pictures, strict=True):
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
        axis.set_axis_off()
    line[0].set_title(name, fontsize=8)
plt.show()
