"""`python -m nid_jax.demo [--port=7860]`: the demonstration, on this machine alone."""

from nid_jax.running import stopping

if __name__ == "__main__":
    stopping.begin()  # what follows takes its time

import argparse
import importlib.util
import sys
import time


def main() -> None:
    """Read the command line, load the dictionaries, serve until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m nid_jax.demo", description=__doc__)
    parser.add_argument("--port", type=int, default=7860, help="of 127.0.0.1; 0: a free one")
    port = parser.parse_args().port
    if importlib.util.find_spec("gradio") is None:
        print("error: the demo needs gradio: pip install 'nid_jax[demo]'", file=sys.stderr)
        sys.exit(2)
    begun = time.monotonic()

    def say(words: str) -> None:
        print(f"{time.monotonic() - begun:4.0f} s: {words}", flush=True)

    say("starting: imports, three dictionaries, and what the first tab is compiled to")
    from nid_jax.demo import page

    with stopping.command():
        try:
            page.serve(port, say)
        except (OSError, OverflowError) as error:
            print(f"error: --port={port}: {error}", file=sys.stderr)
            sys.exit(2)


if __name__ == "__main__":
    main()
