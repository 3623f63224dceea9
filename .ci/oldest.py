"""Print the lowest versions that setup.cfg admits, one requirement a line, as pip takes them."""

import configparser
import re
from pathlib import Path


def oldest(setup):
    """'NAME[EXTRA] >= VERSION' of install_requires as 'NAME[EXTRA]==VERSION'. -> list.

    Raises ValueError for a requirement without a lowest version, of which there is no oldest.
    """
    config = configparser.ConfigParser()
    config.read_string(setup)
    pins = []
    for line in config["options"]["install_requires"].strip().splitlines():
        found = re.fullmatch(r"([\w.-]+(?:\[\w+\])?)\s*>=\s*([\w.]+)", line.strip())
        if not found:
            raise ValueError(f"setup.cfg: {line.strip()!r}; allowed: NAME >= VERSION")
        pins.append("==".join(found.groups()))
    return pins


if __name__ == "__main__":
    setup = Path(__file__).resolve().parents[1] / "setup.cfg"
    print("\n".join(oldest(setup.read_text(encoding="utf-8"))))
