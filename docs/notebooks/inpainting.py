# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Missing pixels, and where the result is unsure
#
# The codes of the training signals have a Gaussian distribution of their own. Under it, few pixels
# are enough for a most probable face, and for a deviation of every point of it.

# %%
import matplotlib.pyplot as plt
import numpy as np
from skimage.data import lfw_subset

import nid_jax as nid
from nid_jax.baselines import images

SMALL = False  # smaller sizes, for a test of this page

# %%
faces = nid.load("faces")  # learned from the first 80 of these 100 faces, and moved copies of them
unseen = lfw_subset()[80:100]

# %% [markdown]
# ## From a tenth of the pixels
#
# `seen` is what was measured. NaN in the picture would say the same.

# %%
rng = np.random.default_rng(0)
seen = rng.random((25, 25)) < 0.1
fit = faces.fit(unseen, seen=seen)
print(fit.message)
biharmonic = np.stack([images.biharmonic(face[..., None], seen) for face in unseen])[..., 0]


def psnr(pictures):
    return float(np.mean(nid.metrics.psnr(np.clip(pictures, 0, 1), unseen[..., None])))


print(f"dictionary {psnr(fit.render()):.2f} dB, biharmonic {psnr(biharmonic[..., None]):.2f} dB")

# %% [markdown]
# ## Where it is unsure
#
# The deviation is small near pixels that were seen and where all faces agree. Is it honest? About
# two thirds of the truth should lie within one deviation of the result.

# %%
unsure = fit.deviation()
off = np.abs(fit.render() - unseen[..., None])[:, ~seen]
print(f"{(off < unsure[:, ~seen]).mean():.0%} of the missing pixels within one deviation")

# %%
rows = {
    "seen": np.where(seen, unseen, 0.5),
    "most probable": np.asarray(fit.render((100, 100)))[..., 0],
    "deviation": unsure[..., 0],
    "biharmonic": biharmonic,
    "truth": unseen,
}
figure, axes = plt.subplots(len(rows), 6, figsize=(9, 8))
for line, (name, pictures) in zip(axes, rows.items(), strict=True):
    look = {"cmap": "magma"} if name == "deviation" else {"cmap": "gray", "vmin": 0, "vmax": 1}
    for axis, picture in zip(line, pictures, strict=False):
        axis.imshow(picture, **look)
        axis.set_axis_off()
    line[0].set_title(name, fontsize=8)
plt.show()

# %% [markdown]
# ## A mixture
#
# Faces are more than one Gaussian. The prior of a mixture weighs its components by how well each
# explains what was measured; how many there are is chosen by signals held out
# (`prior.components=0` in a config).

# %%
from nid_jax.configs import image

config = image.get_config("smoke" if SMALL else "cpu")
config.prior.components = 0
mixed = nid.learn(config)
print(mixed)
print(mixed.fit(unseen, seen=seen).message)
