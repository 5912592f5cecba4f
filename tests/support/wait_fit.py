"""Two ranks that measure how long they wait: `python -m tests.support.wait_fit FOLDER`.

They train on the FileSet "numbers" in the stage that SNOWFLAKE_HOME leads to. FOLDER gets history.json, what each rank
measured in each epoch, and the logger's files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger

from fileset_integrations import Columns, FileSet
from fileset_integrations.lightning import DataWait, FileSetDataModule
from tests.support.fitting import Recorder, quiet_trainer
from tests.support.staged import PROFILE, STAGE


class WriteHistory(Callback):
    """Writes what was measured, since the objects of a spawned rank die with it."""

    def __init__(self, folder: Path, wait: DataWait) -> None:
        self.folder, self.wait = folder, wait

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_rank == 0:
            epochs = [
                [
                    {
                        "rows": rank.rows,
                        "files_fetched": rank.stats.files_fetched,
                        "blocks_decoded": rank.stats.blocks_decoded,
                        "disk_hits": rank.stats.disk_hits,
                    }
                    for rank in ranks
                ]
                for ranks in self.wait.history
            ]
            (self.folder / "history.json").write_text(json.dumps(epochs))


def main() -> None:
    folder = Path(sys.argv[1])
    fs = FileSet(target_stage_loc=f"{STAGE}/sets", name="numbers", connection_name=PROFILE)
    columns = Columns({"id": "id", "x": ["x"]}, label="y")
    dm = FileSetDataModule(train=fs, columns=columns, batch_size=4, streams=2, blocks="disk")
    wait = DataWait()
    trainer = quiet_trainer(
        strategy="ddp_spawn",
        devices=2,
        max_epochs=3,
        callbacks=[wait, WriteHistory(folder, wait)],
        logger=CSVLogger(folder, version=""),
        log_every_n_steps=10,
    )
    trainer.fit(Recorder(), dm)


if __name__ == "__main__":
    main()
