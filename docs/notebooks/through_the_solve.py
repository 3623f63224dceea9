# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Training through the solve
#
# Codes in closed form are a function that JAX differentiates: with respect to what was measured,
# to the operator and to the dictionary. Here a dictionary is improved for a purpose of its own:
# faces from every third pixel.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from skimage.data import lfw_subset

import nid_jax as nid

SMALL = False  # smaller sizes, for a test of this page

# %%
images = lfw_subset()[:100]
faces = nid.learn(images[:80], num_experts=32 if SMALL else 128)
seen = np.zeros((25, 25), bool)
seen[::3, ::3] = True
train, unseen = jnp.asarray(images[:80]), images[80:]


def psnr(trained):
    fit = trained.fit(unseen, seen=seen, solver=nid.Ridge(lam=1e-2))
    return fit.score(unseen)["psnr"].mean()


print(f"{psnr(faces):.2f} dB before")

# %% [markdown]
# The loss is of the pixels that the fit did not see. `with_dictionary` puts the dictionary of this
# step in place; the gradient goes through the solve by the implicit function theorem, not through
# its steps.

# %%
graph, state = nnx.split(faces.dictionary)
optimiser = optax.adam(1e-3)
moments = optimiser.init(state)


@jax.jit
def step(state, moments):
    def loss(state):
        now = faces.with_dictionary(nnx.merge(graph, state))
        found = now.fit(train, seen=seen, solver=nid.Ridge(lam=1e-2)).render()
        return jnp.square(found[..., 0] - train).mean()

    value, gradient = jax.value_and_grad(loss)(state)
    change, moments = optimiser.update(gradient, moments)
    return optax.apply_updates(state, change), moments, value


# %%
for number in range(3 if SMALL else 60):
    state, moments, value = step(state, moments)
    if number % 10 == 0:
        print(f"step {number}, mean squared error {float(value):.5f}")

# %%
trained = faces.with_dictionary(nnx.merge(graph, state))
print(f"{psnr(trained):.2f} dB after")
