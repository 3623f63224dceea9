"""The command line from a clone: python main.py is the installed command nid_jax."""

from nid_jax.__main__ import run

if __name__ == "__main__":
    run()
