"""Benchmarks are programs of the repository, no part of the installed package: make them found."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
