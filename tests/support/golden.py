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
    [[1, 16, 2, 15], [4, 13, 6, 12], [5, 14, 0, 20], [3, 18, 7, 19], [11, 21, 8, 22], [10, 17, 9]],
    [[2, 19, 1, 16], [6, 8, 4, 15], [0, 11, 5, 14], [3, 10, 17, 12], [18, 13, 21, 9], [20, 7, 22]],
)
GOLDEN_FULL_BATCHES = tuple(epoch[:-1] for epoch in GOLDEN_BATCHES)
# GOLDEN_IDS[epoch]: the same in one list.
GOLDEN_IDS = tuple([row for batch in epoch for row in batch] for epoch in GOLDEN_BATCHES)


def golden_fileset(folder: Path) -> FileSet:
    """The FileSet of the golden order, written into `folder`: columns id, x, y and name of `data.numbered_tables`."""
    return numbered(folder, GOLDEN_FILE_ROWS)
