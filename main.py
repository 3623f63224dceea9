"""The command line from a clone: python main.py is the installed command nid_jax."""

import signal

# As in nid_jax.__main__, which imports more before it.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from nid_jax.__main__ import run

if __name__ == "__main__":
    run()
