"""``python -m fedvemoe_app.worker``: what a door starts; not for people."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from fedvemoe_app.worker.place import Owner, Place
from fedvemoe_app.worker.resident import Service, live


def main() -> None:
    """Serve as the arguments say; all is logged to the standard error that was inherited."""
    parser = argparse.ArgumentParser()
    for name, kind in (
        ("folder", Path),
        ("handler", str),
        ("terms", str),
        ("idle", float),
        ("owner", int),
        ("born", float),
    ):
        parser.add_argument(f"--{name}", type=kind, required=True)
    given = parser.parse_args()
    os.umask(0o077)
    console = logging.StreamHandler()
    console.setFormatter(logging.Formatter("%(levelname)s : %(message)s"))
    own = logging.getLogger("fedvemoe")
    own.addHandler(console)
    own.setLevel(logging.INFO)
    live(
        Place(given.folder),
        Owner(given.owner, given.born),
        Service(given.handler, given.terms, given.idle),
    )


if __name__ == "__main__":
    main()
