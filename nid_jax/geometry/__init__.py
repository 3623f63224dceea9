"""Surfaces in space: meshes, signed distances, level sets, pictures of them. NumPy, no jax."""
