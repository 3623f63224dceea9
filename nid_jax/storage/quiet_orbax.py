"""Keeps orbax off the terminal: each failure is raised or reported once, by whoever asked."""

from __future__ import annotations

import gc
import logging as std_logging
import sys
from pathlib import Path

from absl import logging


class QuietOrbax(std_logging.Filter):
    """Keeps orbax's own log lines off the terminal."""

    def filter(self, record: std_logging.LogRecord) -> bool:
        return "orbax" not in Path(record.pathname).parts

    def install(self) -> None:
        """Puts the filter in place; the hush on abandoned writers stays for good."""
        logging.get_absl_logger().addFilter(self)
        _hush_abandoned_writers()

    def remove(self) -> None:
        """Takes the filter away."""
        logging.get_absl_logger().removeFilter(self)


def _hush_abandoned_writers() -> None:
    """Silences writers that come to an end after the failure of another leaf has ended the save.

    Each would print a traceback of its own: that its event loop is closed, or that nobody asked
    for its error. They may take their time, so this stays for the life of the process.
    """
    if getattr(sys.unraisablehook, "hushes_writers", False):
        return
    previous = sys.unraisablehook

    def hook(args):
        if str(args.exc_value) != "Event loop is closed":
            previous(args)

    def wanted(record):
        text = record.getMessage()
        return "never retrieved" not in text or not ("orbax" in text or "tensorstore" in text)

    hook.hushes_writers = True
    sys.unraisablehook = hook
    std_logging.getLogger("asyncio").addFilter(wanted)


def collect_abandoned_reads() -> None:
    """Collects the reads that orbax left waiting when one of them failed.

    Otherwise each would print a traceback of its own whenever Python happens to find it.
    """
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        gc.collect()
    finally:
        sys.unraisablehook = hook
