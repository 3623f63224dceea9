"""The command nid_jax, also as python -m nid_jax: takes signals before it imports what is slow."""

import signal

# Ctrl-C ends Python without a word, and without a traceback, until `begin` says its line.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from nid_jax.running import stopping


def run() -> None:
    """The command line of `nid_jax.cli`; a signal to end is one line from the first moment on."""
    stopping.begin()
    from nid_jax import cli

    with stopping.command():
        cli.run()


if __name__ == "__main__":
    run()
