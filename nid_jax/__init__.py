"""Neural implicit dictionaries in JAX: learn a dictionary of continuous basis functions from a
collection of signals; afterwards any new signal is one small code, solved for, not trained.

    import nid_jax as nid

    faces = nid.learn(images)
    fit = faces.fit(unseen, seen=mask)
    fit.render((512, 512))

The public names stand in __init__.pyi; each is imported when it is first used.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
