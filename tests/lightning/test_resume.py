"""A run that goes on from a checkpoint sees exactly the rows that it had not seen."""

from types import SimpleNamespace

import pytest
import torch

from fileset_integrations.errors import StateMismatchError
from fileset_integrations.lightning import FileSetDataModule
from tests.support import count
from tests.support.fitting import BATCH, ID_COLUMNS, ROWS, SEED, SaveEverywhere, Scheduled, fit, quiet_trainer


@pytest.fixture(scope="module")
def uninterrupted(train, val, tmp_path_factory):
    """A run of two epochs with a validation in the middle of each, and its checkpoints."""
    folder = tmp_path_factory.mktemp("checkpoints")
    saver = SaveEverywhere(folder)
    dm = FileSetDataModule(train=train, val=val, columns=ID_COLUMNS, batch_size=BATCH, seed=SEED)
    model = fit(dm, max_epochs=2, val_check_interval=0.5, callbacks=[saver])
    assert len(model.train_seen) == 8
    return SimpleNamespace(folder=folder, taken=saver.taken, model=model)


MOMENTS = [f"batch-{step}" for step in range(1, 8)] + [f"validation-{step}" for step in (2, 4, 6)] + ["epoch-4"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_resumed_run_sees_exactly_the_rest(moment, uninterrupted, datamodule):
    model = fit(datamodule(), ckpt_path=uninterrupted.folder / moment, max_epochs=2, val_check_interval=0.5)

    assert model.train_seen == uninterrupted.model.train_seen[uninterrupted.taken[moment] :]
    for name, weights in uninterrupted.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], weights)


@pytest.mark.parametrize("moment", ["batch-3", "batch-4", "validation-6"])
def test_a_run_resumes_on_another_number_of_workers(moment, uninterrupted, datamodule):
    model = fit(
        datamodule(num_workers=2), ckpt_path=uninterrupted.folder / moment, max_epochs=2, val_check_interval=0.5
    )

    assert model.train_seen == uninterrupted.model.train_seen[uninterrupted.taken[moment] :]


def test_a_run_of_workers_resumes_without_them(datamodule, tmp_path):
    saver = SaveEverywhere(tmp_path)
    whole = fit(datamodule(num_workers=2), max_epochs=2, callbacks=[saver])

    for moment in ("batch-2", "batch-6"):
        model = fit(datamodule(), ckpt_path=tmp_path / moment, max_epochs=2)
        assert model.train_seen == whole.train_seen[saver.taken[moment] :]


def test_a_resumed_run_can_be_resumed_again(uninterrupted, datamodule, tmp_path):
    saver = SaveEverywhere(tmp_path)
    middle = fit(datamodule(), ckpt_path=uninterrupted.folder / "batch-2", max_epochs=2, callbacks=[saver])

    last = fit(datamodule(), ckpt_path=tmp_path / "batch-4", max_epochs=2)

    assert middle.train_seen == uninterrupted.model.train_seen[2:]
    assert last.train_seen == uninterrupted.model.train_seen[6:]


def test_a_run_resumes_under_max_steps(datamodule, tmp_path):
    saver = SaveEverywhere(tmp_path)
    whole = fit(datamodule(), max_steps=7, max_epochs=-1, callbacks=[saver])

    for moment in ("batch-3", "batch-4", "batch-6"):
        model = fit(datamodule(), ckpt_path=tmp_path / moment, max_steps=7, max_epochs=-1)
        assert model.train_seen == whole.train_seen[saver.taken[moment] :]


@pytest.mark.parametrize(
    "options", [{}, {"reload_dataloaders_every_n_epochs": 1}, {"val_check_interval": 0.5}], ids=str
)
def test_a_run_whose_model_asks_for_the_number_of_steps_resumes_likewise(options, datamodule, tmp_path):
    saver = SaveEverywhere(tmp_path)
    whole = fit(datamodule(), model=Scheduled(), max_epochs=2, callbacks=[saver], **options)

    for moment in ("batch-1", "batch-4", "epoch-4", "batch-6"):
        model = fit(datamodule(), ckpt_path=tmp_path / moment, model=Scheduled(), max_epochs=2, **options)
        assert model.train_seen == whole.train_seen[saver.taken[moment] :]
        for name, weights in whole.state_dict().items():
            assert torch.equal(model.state_dict()[name], weights)


def test_its_checkpoint_of_another_seed_is_refused(datamodule, tmp_path):
    fit(datamodule(), model=Scheduled(), max_epochs=1, callbacks=[SaveEverywhere(tmp_path)])

    with pytest.raises(StateMismatchError, match=r"seed=5.*seed=6"):
        fit(datamodule(seed=6), ckpt_path=tmp_path / "batch-3", model=Scheduled(), max_epochs=1)


def test_what_a_checkpoint_says_of_training_holds_for_the_fit_that_it_is_given_to_only(uninterrupted, val, datamodule):
    dm = datamodule(test=val)
    quiet_trainer().test(Scheduled(), dm, ckpt_path=uninterrupted.folder / "batch-2")
    fit(dm, ckpt_path=uninterrupted.folder / "batch-2", max_epochs=1)

    whole = fit(dm, max_epochs=2)

    assert [len(epoch) for epoch in whole.epochs()] == [ROWS // BATCH] * 2


def test_a_checkpoint_of_another_seed_is_refused(uninterrupted, datamodule):
    with pytest.raises(StateMismatchError, match=r"seed=5.*seed=6"):
        fit(datamodule(seed=6), ckpt_path=uninterrupted.folder / "batch-3", max_epochs=2)


@pytest.mark.parametrize(
    "options",
    [
        {"limit_train_batches": 3},
        {"limit_train_batches": 3, "max_steps": 7, "max_epochs": -1},
        {"limit_train_batches": 3, "limit_val_batches": 0},
        {"reload_dataloaders_every_n_epochs": 1},
        {"accumulate_grad_batches": 3},
        {"check_val_every_n_epoch": None, "val_check_interval": 3},
    ],
    ids=str,
)
def test_every_checkpoint_of_a_run_is_gone_on_from_whatever_the_trainer_was_told(options, datamodule, tmp_path):
    saver = SaveEverywhere(tmp_path)
    whole = fit(datamodule(), callbacks=[saver], **options)

    moments = list(saver.taken)
    for moment in count(moments[2::4], moments):
        model = fit(datamodule(), ckpt_path=tmp_path / moment, **options)
        assert model.train_seen == whole.train_seen[saver.taken[moment] :], moment
