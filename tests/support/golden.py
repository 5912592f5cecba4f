"""One small order, pinned literally. A change here is a change of the order contract: saved states no longer fit, and
`plan.ORDER` must get another name.
"""

from __future__ import annotations

from pathlib import Path

from fileset_integrations.fileset import FileSet
from tests.support.data import numbered

GOLDEN_FILE_ROWS = (7, 1, 9, 6)
GOLDEN_ROWS = sum(GOLDEN_FILE_ROWS)  # 23
GOLDEN_BATCH_SIZE = 4
GOLDEN_SEED = 7
GOLDEN_STREAMS = 2
# Arguments of every reader and face that yields the golden order.
GOLDEN_ARGUMENTS = {
    "batch_size": GOLDEN_BATCH_SIZE,
    "shuffle": True,
    "seed": GOLDEN_SEED,
    "streams": GOLDEN_STREAMS,
}

# GOLDEN_BATCHES[epoch]: column "id" of each batch. With drop_last_batch=True the last, short one is left out.
GOLDEN_BATCHES = (
    [[3, 16, 1, 14], [0, 11, 6, 8], [4, 7, 5, 17], [2, 19, 9, 20], [15, 22, 10, 21], [13, 18, 12]],
    [[10, 3, 15, 0], [13, 1, 16, 5], [12, 18, 11, 22], [8, 17, 9, 21], [14, 19, 6, 20], [2, 7, 4]],
)
GOLDEN_FULL_BATCHES = tuple(epoch[:-1] for epoch in GOLDEN_BATCHES)
# GOLDEN_IDS[epoch]: the same in one list.
GOLDEN_IDS = tuple([row for batch in epoch for row in batch] for epoch in GOLDEN_BATCHES)


def golden_fileset(folder: Path) -> FileSet:
    """The FileSet of the golden order, written into `folder`: columns id, x, y and name of `data.numbered_tables`."""
    return numbered(folder, GOLDEN_FILE_ROWS)
