# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Shapes from points
#
# A signed distance function is a signal of three coordinates. From a few samples of the distance,
# or from oriented points alone, its code gives the whole surface.

# %%
import matplotlib.pyplot as plt
import numpy as np

import nid_jax as nid
from nid_jax.configs import sdf

SMALL = False  # smaller sizes, for a test of this page

# %%
config = sdf.get_config("smoke" if SMALL else "cpu")
if not SMALL:
    config.data.update({"size": (32, 32, 32), "num_train": 60})
    config.data.augment.warps = 15
    config.dictionary.embedding.counts = (20, 20, 20)
    config.dictionary.num_experts = 512
chairs = nid.learn(config)
unseen = np.asarray(nid.data.to_array(nid.data.open_collection(config.data, "test", 0)))[:3]

# %% [markdown]
# ## From 2% of the samples

# %%
side = chairs.grid_shape[0]
axis = np.linspace(-1, 1, side, dtype=np.float32)
points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
chosen = np.random.default_rng(0).choice(len(points), max(len(points) // 50, 100), replace=False)
samples = unseen.reshape(len(unseen), -1, 1)[:, chosen]
fit = chairs.fit(samples, nid.operators.sample(points[chosen]), solver=nid.Gaussian())
print(fit.message)
inside = np.asarray(fit.render()) < 0
print("IoU", np.round(nid.metrics.iou(np.asarray(fit.render()), unseen), 3))

# %% [markdown]
# ## Meshes, and shapes between

# %%
share = np.linspace(0, 1, 3, dtype=np.float32)[:, None]
codes = (1 - share) * np.asarray(fit.codes)[:1] + share * np.asarray(fit.codes)[1:2]
bias = (1 - share) * np.asarray(fit.bias)[:1] + share * np.asarray(fit.bias)[1:2]
between = nid.Fit.of_codes(chairs.dictionary, codes, bias, chairs.grid_shape)
meshes = between.mesh(24 if SMALL else 64)
figure = plt.figure(figsize=(9, 3))
for place, mesh in enumerate(meshes):
    drawn = figure.add_subplot(1, 3, place + 1, projection="3d")
    if len(mesh.faces):
        upright = mesh.vertices[:, [2, 0, 1]].T  # the second axis points up
        drawn.plot_trisurf(*upright, triangles=mesh.faces, color="lightsteelblue")
    drawn.set_axis_off()
plt.show()
