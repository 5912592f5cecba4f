"""Two processes that train together: `python -m tests.support.ddp_fit FOLDER EPOCHS` writes what each rank saw.

FOLDER holds the Parquet files in train/ and val/. Rank r writes FOLDER/rank-r.json: the training batches of each epoch,
the validation batches of each epoch, and what a plain DataLoader yields in the same processes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lightning.pytorch import Callback
from torch.utils.data import DataLoader

from fileset_integrations import FileSet
from fileset_integrations.lightning import FileSetDataModule
from tests.support.fitting import ID_COLUMNS, Recorder, quiet_trainer

BATCH_SIZE = 3  # per rank
SEED = 11


class WriteSeen(Callback):
    """Writes what this rank saw, since the objects of a spawned rank die with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_fit_end(self, trainer, pl_module):
        pipe = trainer.datamodule.plain_fileset.to_torch_datapipe(
            batch_size=BATCH_SIZE, shuffle=True, seed=SEED, drop_last_batch=False
        )
        plain = DataLoader(pipe, batch_size=None, num_workers=1)
        seen = {
            "train": pl_module.epochs(),
            "val": [[ids for at, _, ids in pl_module.val_seen if at == epoch] for epoch in range(trainer.max_epochs)],
            "plain": [batch["id"].tolist() for batch in plain],
            "length": len(trainer.train_dataloader),
        }
        (self.folder / f"rank-{trainer.global_rank}.json").write_text(json.dumps(seen))


def main() -> None:
    folder, epochs = Path(sys.argv[1]), int(sys.argv[2])
    train = FileSet.from_parquet(folder / "train")
    dm = FileSetDataModule(
        train=train, val=FileSet.from_parquet(folder / "val"), columns=ID_COLUMNS, batch_size=BATCH_SIZE, seed=SEED
    )
    dm.plain_fileset = train
    str(dm)  # whatever is asked before the ranks are known must not settle them
    dm.setup("fit")
    dm.train_dataloader()
    trainer = quiet_trainer(strategy="ddp_spawn", devices=2, max_epochs=epochs, callbacks=[WriteSeen(folder)])
    trainer.fit(Recorder(), dm)


if __name__ == "__main__":
    main()
