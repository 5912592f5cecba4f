"""What a Trainer is told about its batches holds for ours."""

import pytest
from lightning.pytorch.tuner import Tuner

from fileset_integrations.lightning import FileSetDataModule
from tests.support.fitting import BATCH, EPOCHS, ID_COLUMNS, ROWS, SEED, VAL_ROWS, Recorder, fit, natural, quiet_trainer


@pytest.mark.parametrize(
    ("options", "validations", "batches"),
    [
        ({"limit_train_batches": 0.5}, EPOCHS, 2),
        ({"val_check_interval": 0.5}, 2 * EPOCHS, 4),
        ({"limit_train_batches": 3}, EPOCHS, 3),
        ({"limit_val_batches": 1}, EPOCHS, 4),
        ({"reload_dataloaders_every_n_epochs": 1}, EPOCHS, 4),
        ({"accumulate_grad_batches": 3}, EPOCHS, 4),
    ],
    ids=lambda options: "-".join(options) if isinstance(options, dict) else "",
)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_validation_runs_in_every_epoch_whatever_limits_it(
    options, validations, batches, num_workers, datamodule, expected
):
    model = fit(datamodule(num_workers=num_workers), **options)

    seen = [ids for _, _, ids in model.val_seen]
    assert seen == natural(VAL_ROWS)[: options.get("limit_val_batches")] * validations
    assert model.epochs() == [expected(epoch)[:batches] for epoch in range(EPOCHS)]


@pytest.mark.parametrize(
    ("options", "batches", "val_batches"),
    [({"overfit_batches": 2}, 2, 2), ({"overfit_batches": 0.5}, 2, 1), ({"overfit_batches": 1}, 1, 1)],
    ids=str,
)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_to_overfit_is_to_see_the_same_batches_in_every_epoch(options, batches, val_batches, num_workers, datamodule):
    dm = datamodule(num_workers=num_workers)
    dm.setup()
    dm.train_dataloader()  # made for shuffling, before a trainer is there

    model = fit(dm, **options)

    assert model.epochs() == [natural(ROWS)[:batches]] * EPOCHS
    assert [ids for _, _, ids in model.val_seen] == natural(VAL_ROWS)[:val_batches] * EPOCHS


def test_a_module_that_was_overfitted_is_shuffled_again_by_the_next_trainer(datamodule, expected):
    dm = datamodule()
    fit(dm, overfit_batches=2)

    assert fit(dm, max_epochs=1).epochs() == [expected(0)]


def test_a_fast_run_takes_one_batch_of_each(datamodule, expected, val):
    dm = datamodule(test=val, predict=[val, val])
    model = fit(dm, fast_dev_run=True)
    trainer = quiet_trainer(fast_dev_run=True)
    trainer.test(model, dm, verbose=False)
    trainer.predict(model, dm)

    first = natural(VAL_ROWS)[0]
    assert model.epochs() == [expected(0)[:1]]
    assert model.val_seen == [(0, 0, first)] and model.test_seen == [(0, first)]
    assert model.predict_seen == [(0, first), (1, first)]


def test_limits_of_zero_leave_out_training_or_validation(datamodule, expected):
    without_training, without_validation = (
        fit(datamodule(), limit_train_batches=0),
        fit(datamodule(), limit_val_batches=0),
    )

    assert without_training.train_seen == []
    assert without_validation.epochs() == [expected(epoch) for epoch in range(EPOCHS)]
    assert without_validation.val_seen == []


def test_tests_and_predictions_are_limited_too(datamodule, val):
    dm, model = datamodule(test=[val, val], predict=val), Recorder()
    trainer = quiet_trainer(limit_test_batches=1, limit_predict_batches=0.5)

    trainer.test(model, dm, verbose=False)
    trainer.predict(model, dm)

    first = natural(VAL_ROWS)[0]
    assert model.test_seen == [(0, first), (1, first)] and model.predict_seen == [(0, first)]


@pytest.mark.parametrize(
    ("options", "after"),
    [
        ({"check_val_every_n_epoch": 2}, [8]),
        ({"check_val_every_n_epoch": None, "val_check_interval": 3}, [3, 6, 9, 12]),
        ({"val_check_interval": 3}, [3, 7, 11]),
        ({"num_sanity_val_steps": -1, "limit_val_batches": 0.5}, [0, 4, 8, 12]),
    ],
    ids=str,
)
def test_validation_comes_after_as_many_batches_as_asked(options, after, datamodule, expected):
    class Noting(Recorder):
        def on_validation_start(self):
            validated.append(len(self.train_seen))

    validated, model = [], Noting()

    quiet_trainer(**{"max_epochs": EPOCHS} | options).fit(model, datamodule())

    assert validated == after
    assert model.epochs() == [expected(epoch) for epoch in range(EPOCHS)]


def test_loaders_are_made_anew_every_so_many_epochs(train, val, expected):
    class Noting(FileSetDataModule):
        def train_dataloader(self):
            made.append(("train", self.trainer.current_epoch))
            return super().train_dataloader()

        def val_dataloader(self):
            made.append(("val", self.trainer.current_epoch))
            return super().val_dataloader()

    made = []
    dm = Noting(train=train, val=val, columns=ID_COLUMNS, batch_size=BATCH, seed=SEED)

    model = fit(dm, max_epochs=4, reload_dataloaders_every_n_epochs=2)

    assert sorted(made) == [("train", 0), ("train", 2), ("val", 0), ("val", 2)]
    assert model.epochs() == [expected(epoch) for epoch in range(4)]


def test_gradients_are_accumulated_over_the_readers_batches(datamodule):
    class Stepping(Recorder):
        def optimizer_step(self, *args, **kwargs):
            super().optimizer_step(*args, **kwargs)  # runs the closure, and so the last training step
            steps.append(len(self.train_seen))

    steps = []

    quiet_trainer(max_epochs=2, accumulate_grad_batches=3).fit(Stepping(), datamodule())

    assert steps == [3, 4, 7, 8]  # the last batch of an epoch ends what was begun


@pytest.mark.parametrize(
    ("options", "steps"),
    [({"max_steps": 6, "max_epochs": -1}, 6), ({"max_steps": 0}, 0), ({"max_epochs": 0}, 0)],
    ids=str,
)
def test_a_run_is_as_long_as_asked(options, steps, datamodule, expected):
    model = fit(datamodule(), **options)

    assert [ids for _, ids in model.train_seen] == [ids for epoch in range(3) for ids in expected(epoch)][:steps]


def test_a_run_that_is_stopped_early_ends_after_that_batch(datamodule, expected):
    class Stopping(Recorder):
        def training_step(self, batch, batch_idx):
            self.trainer.should_stop = len(self.train_seen) == 5
            return super().training_step(batch, batch_idx)

    model = Stopping()
    quiet_trainer(max_epochs=4).fit(model, datamodule())

    assert model.epochs() == [expected(0), expected(1)[:2]]


def test_the_tuner_tries_batch_sizes_on_batches_of_that_size(datamodule, tmp_path):
    class Small(Recorder):
        def training_step(self, batch, batch_idx):
            if len(batch[1]) > 9:
                raise RuntimeError("CUDA out of memory.")
            return super().training_step(batch, batch_idx)

    model, dm = Small(), datamodule(batch_size=4)
    trainer = quiet_trainer(default_root_dir=tmp_path, enable_checkpointing=True)

    found = Tuner(trainer).scale_batch_size(model, datamodule=dm, init_val=4)
    tried = {len(ids) for _, ids in model.train_seen}
    model.train_seen.clear()
    trainer.fit(model, dm)

    assert (found, tried) == (8, {4, 8})
    assert [len(ids) for _, ids in model.train_seen] == [8] * 3


def test_the_number_of_steps_is_known_before_training(datamodule):
    class Asking(Recorder):
        def configure_optimizers(self):
            steps.append(self.trainer.estimated_stepping_batches)
            return super().configure_optimizers()

    steps = []
    quiet_trainer(max_epochs=3, accumulate_grad_batches=2).fit(Asking(), datamodule())

    assert steps == [6]
