# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quick start
#
# A dictionary is learned once from signals of a kind. Any other signal of that kind is then one
# code, solved for.

# %%
import matplotlib.pyplot as plt
import numpy as np
from skimage.data import lfw_subset

import nid_jax as nid

SMALL = False  # smaller sizes, for a test of this page

# %% [markdown]
# ## Learn
#
# 80 real faces of 25x25 pixels. `learn` takes an array, a list of pictures, a folder's collection
# or a config.

# %%
images = lfw_subset()[:100]
faces = nid.learn(images[:80], num_experts=32 if SMALL else None)
faces

# %% [markdown]
# ## Fit
#
# The codes of 20 faces that it has never seen, in closed form. `fit.message` says how they were
# found.

# %%
fit = faces.fit(images[80:])
print(fit.message)
print("PSNR", fit.score(images[80:])["psnr"].mean(), "dB")

# %% [markdown]
# ## A function of coordinates
#
# A fit is a continuous signal: on any grid, in any window, at any point, with its gradient.

# %%
large = fit.render((200, 200))
near = fit.render((100, 200), window=((-0.5, 0.1), (-0.6, 0.6)))
figure, axes = plt.subplots(3, 5, figsize=(10, 6))
for face, column in enumerate(axes.T):
    for axis, picture in zip(column, (images[80 + face], large[face], near[face]), strict=True):
        axis.imshow(np.clip(picture, 0, 1).squeeze(), cmap="gray")
        axis.set_axis_off()
axes[0, 0].set_title("25x25 pixels", fontsize=8)
axes[1, 0].set_title("its code at 200x200", fontsize=8)
axes[2, 0].set_title("a window of it", fontsize=8)
plt.show()

# %%
points = np.array([[0.0, 0.0], [0.1, -0.3]])  # (row, column) in [-1, 1]
print(fit.at(points).shape, fit.gradient_at(points).shape)

# %% [markdown]
# ## Keep
#
# One file, which loads in a moment and executes nothing.

# %%
faces.save("faces.safetensors")
again = nid.load("faces.safetensors")
assert np.allclose(again.fit(images[80:]).codes, fit.codes, atol=1e-5)
