"""One size of ``benchmarks.scale``: ``python -m benchmarks.scale_one SILOS ROUNDS [k=v ...]``."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict

from benchmarks.scale import measured

if __name__ == "__main__":
    logging.getLogger("flwr").setLevel(logging.ERROR)
    cost = measured(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
    print(json.dumps(asdict(cost)))
