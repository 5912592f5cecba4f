"""A correct run warns of nothing that has to do with its data."""

import warnings

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from fileset_integrations.lightning import FileSetDataModule
from tests.support.fitting import BATCH, ID_COLUMNS, Recorder, SaveEverywhere, quiet_trainer


class Logging(Recorder):
    """Logs without saying how many rows a batch has, as most models do."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step(batch, batch_idx, dataloader_idx)
        self.log("seen", torch.tensor(1.0))


class TrainingOnly(Logging):
    validation_step = None


def loud_trainer(folder, **options):
    """A trainer with what it has where nothing is said: a logger, checkpoints, a progress bar, a summary."""
    default = {
        "logger": CSVLogger(folder),
        "enable_checkpointing": True,
        "enable_progress_bar": True,
        "enable_model_summary": True,
    }
    return quiet_trainer(
        **default, num_sanity_val_steps=2, log_every_n_steps=1, default_root_dir=folder, callbacks=[], **options
    )


@pytest.mark.slow
@pytest.mark.parametrize(("validation", "num_workers"), [("one", 0), ("several", 2), ("none", 0)])
def test_a_run_warns_of_nothing(validation, num_workers, train, val, tmp_path, recwarn):
    filesets = {"one": val, "several": [val, train], "none": None}[validation]
    model = TrainingOnly() if filesets is None else Logging()
    warnings.simplefilter("always")

    dm = FileSetDataModule(
        train=train, val=filesets, test=val, predict=val, columns=ID_COLUMNS, batch_size=BATCH, num_workers=num_workers
    )
    trainer = loud_trainer(tmp_path, max_epochs=2)
    trainer.fit(model, dm)
    trainer.test(model, dm)
    trainer.predict(model, dm)
    saver = SaveEverywhere(tmp_path / "saved")
    quiet_trainer(callbacks=[saver]).fit(model, dm)
    quiet_trainer().fit(type(model)(), dm, ckpt_path=saver.folder / "batch-10", weights_only=True)

    # Lightning 2.6 itself asks torch 2.13 something that is deprecated there.
    told = [str(one.message) for one in recwarn if not one.filename.endswith("utilities/_pytree.py")]
    assert told == []
    assert len(model.train_seen) == 3 * 4
