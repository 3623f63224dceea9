"""`python -m nid_jax.demo [--port=7860]`: the demonstration, on this machine alone."""

import argparse
import importlib.util
import sys


def main() -> None:
    """Read the command line, load the dictionaries, serve until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m nid_jax.demo", description=__doc__)
    parser.add_argument("--port", type=int, default=7860, help="of 127.0.0.1; 0: a free one")
    port = parser.parse_args().port
    if importlib.util.find_spec("gradio") is None:
        print("error: the demo needs gradio: pip install 'nid_jax[demo]'", file=sys.stderr)
        sys.exit(2)
    from nid_jax.demo import page

    try:
        page.serve(port)
    except OSError as error:
        print(f"error: --port={port}: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
