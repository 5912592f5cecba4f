"""What tests share."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # the checkout, or the folder that tests/ was copied to
SOAK = os.environ.get("FILESET_SOAK") == "1"


def count(fast: int, full: int) -> int:
    """How often to repeat something: `fast` under `make test`, `full` under `make soak`."""
    return full if SOAK else fast
