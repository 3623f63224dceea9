"""A demonstration in the browser: `python -m nid_jax.demo`, with the extra `demo`.

One module a tab: a class that answers in pictures, which needs no browser, and `tab`, which draws
it with gradio. What they know they ask the library, by its public names.
"""
