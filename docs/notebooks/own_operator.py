# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Bring your own operator
#
# Whatever is linear in the signal can be measured: name the points at which the signal is needed,
# and how values there become measurements. Here: a camera without a lens that sums the picture
# under random masks.

# %%
import matplotlib.pyplot as plt
import numpy as np
from skimage.data import lfw_subset

import nid_jax as nid

SMALL = False  # smaller sizes, for a test of this page

# %% [markdown]
# ## The short way
#
# Of a matrix there is an operator already: `matrix` takes what it does to the samples of a grid.

# %%
images = lfw_subset()[:100]
faces = nid.learn(images[:80], num_experts=32 if SMALL else None)
rng = np.random.default_rng(0)
masks = (rng.random((120, 25 * 25)) < 0.5).astype(np.float32) / 25
grid = nid.operators.sample((25, 25))
camera = nid.operators.matrix(masks) @ grid
sums = np.asarray(camera @ images[80:].reshape(20, -1, 1))
fit = faces.fit(sums, camera)
print(fit.message)
print(f"120 sums of 625 pixels: {fit.score(images[80:])['psnr'].mean():.2f} dB")

# %% [markdown]
# ## Points of one's own
#
# A camera that shakes: every pixel is the mean along a path of the continuous signal. Its points
# are named, T to a measurement, and nothing else: such a local operator streams, whatever its
# size.

# %%
T = 8
pixels = np.asarray(grid.points)  # [625, 2], (row, column) in [-1, 1]
turn = np.linspace(0, np.pi / 2, T)
path = 0.12 * np.stack([np.sin(turn), np.cos(turn)], -1)  # the way of the hand
points = (pixels[:, None] + path).reshape(-1, 2).astype(np.float32)
shaken = nid.operators.Operator(points, np.full((625, T), 1 / T, np.float32), run_length=T)
blurred = np.asarray(faces.fit(images[80:]).measured_by(shaken))
steady = faces.fit(blurred, shaken)
print(f"shaken: {steady.score(images[80:])['psnr'].mean():.2f} dB")

# %% [markdown]
# ## Is it right?
#
# Measuring and its adjoint must belong together: every operator can be asked.

# %%
print("adjoint errors", camera.adjoint_error(), shaken.adjoint_error())

# %%
figure, axes = plt.subplots(2, 6, figsize=(9, 3))
for column, (truth, found) in enumerate(zip(images[80:86], fit.render((75, 75)), strict=False)):
    axes[0, column].imshow(truth, cmap="gray", vmin=0, vmax=1)
    axes[1, column].imshow(found[..., 0], cmap="gray", vmin=0, vmax=1)
for axis in axes.flat:
    axis.set_axis_off()
plt.show()
