"""Lightning sees the reader's order in training, and every other row once."""

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import BasePredictionWriter

from fileset_integrations.lightning import FileSetDataModule
from tests.support.fitting import (
    BATCH,
    EPOCHS,
    ID_COLUMNS,
    ROWS,
    SEED,
    VAL_ROWS,
    Recorder,
    fit,
    natural,
    quiet_trainer,
)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_fit_sees_the_readers_order_in_every_epoch_and_every_validation_row_once(num_workers, datamodule, expected):
    model = fit(datamodule(num_workers=num_workers), num_sanity_val_steps=2)

    assert model.epochs() == [expected(epoch) for epoch in range(EPOCHS)]
    assert expected(0) != expected(1)
    sanity = [(-1, 0, ids) for ids in natural(VAL_ROWS)]
    assert model.val_seen == sanity + [(epoch, 0, ids) for epoch in range(EPOCHS) for ids in natural(VAL_ROWS)]


def test_training_keeps_the_last_batch_where_asked_to(datamodule):
    model = fit(datamodule(drop_last_batch=False), max_epochs=1)

    (batches,) = model.epochs()
    assert [len(ids) for ids in batches] == [7, 7, 7, 7, 1]
    assert sorted(row for ids in batches for row in ids) == list(range(ROWS))


def test_without_shuffle_training_is_in_the_files_order(datamodule):
    assert fit(datamodule(shuffle=False), max_epochs=2).epochs() == [natural(ROWS)[:-1]] * 2


@pytest.mark.parametrize("num_workers", [0, 2])
def test_test_and_predict_cover_every_row_once_in_order_though_the_last_batch_is_partial(num_workers, datamodule, val):
    dm = datamodule(test=[val, val], predict=val, num_workers=num_workers)
    model, trainer = Recorder(), quiet_trainer()

    trainer.test(model, dm, verbose=False)
    predicted = trainer.predict(model, dm)
    trainer.validate(model, dm, verbose=False)

    batches = natural(VAL_ROWS)
    assert model.test_seen == [(number, ids) for number in (0, 1) for ids in batches]
    assert model.predict_seen == [(0, ids) for ids in batches]
    assert torch.cat(predicted).tolist() == list(range(VAL_ROWS))
    assert [ids for _, _, ids in model.val_seen] == batches


def test_prediction_writers_are_told_which_rows_each_batch_holds(datamodule, val, train, recwarn):
    class Writer(BasePredictionWriter):
        def write_on_batch_end(self, trainer, model, prediction, places, batch, index, dataloader_idx):
            told.append((dataloader_idx, places, prediction.tolist()))

        def write_on_epoch_end(self, trainer, model, predictions, places):
            told_at_the_end.extend(places)

    told, told_at_the_end = [], []

    quiet_trainer(callbacks=[Writer("batch_and_epoch")]).predict(Recorder(), datamodule(predict=[val, train]))

    assert [places for _, places, _ in told] == [ids for _, _, ids in told] == natural(VAL_ROWS) + natural(ROWS)
    assert told_at_the_end == [natural(VAL_ROWS), natural(ROWS)]
    assert not [one for one in recwarn if "batch indices" in str(one.message)]


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_what_a_model_draws_does_not_depend_on_the_number_of_workers(num_workers, datamodule):
    class Drawing(Recorder):
        def training_step(self, batch, batch_idx):
            drawn.append(torch.rand(()).item())
            return super().training_step(batch, batch_idx)

    drawn, model = [], Drawing()
    torch.manual_seed(3)

    quiet_trainer(max_epochs=2).fit(model, datamodule(num_workers=num_workers))

    torch.manual_seed(3)
    assert drawn == [torch.rand(()).item() for _ in range(8)]


def test_several_validation_filesets_are_loaders_of_their_own(datamodule, val, train):
    model = fit(datamodule(val=[val, train]), max_epochs=1)

    assert [ids for _, number, ids in model.val_seen if number == 0] == natural(VAL_ROWS)
    assert [ids for _, number, ids in model.val_seen if number == 1] == natural(ROWS)


def test_a_run_without_validation_trains(train, expected):
    class TrainingOnly(Recorder):
        validation_step = None

    dm = FileSetDataModule(train=train, columns=ID_COLUMNS, batch_size=BATCH, seed=SEED)
    model = TrainingOnly()

    quiet_trainer(max_epochs=2, num_sanity_val_steps=2).fit(model, dm)

    assert model.epochs() == [expected(0), expected(1)]
    with pytest.raises(MisconfigurationException, match="val_dataloader"):
        quiet_trainer().validate(Recorder(), dm, verbose=False)
