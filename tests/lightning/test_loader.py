"""The loader: exact length, an epoch that is asked for late, workers that end, a small state."""

import gc
import itertools
import json
import multiprocessing
import time

import pytest

from fileset_integrations.errors import StateMismatchError
from tests.support.fitting import VAL_ROWS, Recorder, SaveEverywhere, fit, natural, quiet_trainer


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("drop_last_batch", [True, False])
def test_the_length_is_the_number_of_batches(num_workers, drop_last_batch, datamodule):
    dm = datamodule(num_workers=num_workers, drop_last_batch=drop_last_batch)

    loader = dm.train_dataloader()

    assert len(loader) == sum(1 for _ in loader) == (4 if drop_last_batch else 5)
    assert len(dm.val_dataloader()) == sum(1 for _ in dm.val_dataloader()) == 2


def test_an_iteration_begins_at_the_first_next_and_reads_the_epoch_there(datamodule, expected):
    dm = datamodule()
    dm.trainer = quiet_trainer()
    progress = dm.trainer.fit_loop.epoch_progress.current
    batches = iter(dm.train_dataloader())  # Lightning asks for it before the epoch is known

    progress.completed = 2
    first = next(batches)
    progress.completed = 3

    assert [first[0]["id"].tolist()] + [x["id"].tolist() for x, _ in batches] == expected(2)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_iterators_of_a_loader_do_not_disturb_each_other(num_workers, datamodule, expected):
    loader = datamodule(num_workers=num_workers).train_dataloader()

    pairs = [(left["id"].tolist(), right["id"].tolist()) for (left, _), (right, _) in zip(loader, loader, strict=True)]

    assert pairs == list(zip(expected(0), expected(1), strict=True))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_iteration_that_is_broken_off_leaves_the_next_whole(num_workers, datamodule, expected):
    loader = datamodule(num_workers=num_workers).train_dataloader()

    for _ in loader:
        break

    assert [x["id"].tolist() for x, _ in loader] == expected(1)


def test_without_a_trainer_each_iteration_is_the_next_epoch_and_a_state_says_which(datamodule, expected):
    def ids_of(batches):
        return [x["id"].tolist() for x, _ in batches]

    loader, resumed, later = (datamodule().train_dataloader() for _ in range(3))
    epochs = [ids_of(loader) for _ in range(2)]
    at_the_end = loader.state_dict()
    taken = ids_of(itertools.islice(loader, 2))

    resumed.load_state_dict(loader.state_dict())
    later.load_state_dict(at_the_end)

    assert epochs == [expected(0), expected(1)] and taken == expected(2)[:2]
    assert [ids_of(resumed), ids_of(resumed)] == [expected(2)[2:], expected(3)]
    assert ids_of(later) == expected(2)


@pytest.mark.parametrize("trained_before", [False, True])
def test_a_trainer_that_is_given_the_loader_alone_goes_through_the_epochs_and_on_with_them(
    trained_before, datamodule, expected, tmp_path
):
    dm, saver = datamodule(), SaveEverywhere(tmp_path)
    if trained_before:
        quiet_trainer(max_steps=1).fit(Recorder(), dm)  # whose epoch is not that of the next trainer

    def train(ckpt_path=None, **options):
        model = Recorder()
        quiet_trainer(max_epochs=3, **options).fit(
            model, dm.train_dataloader(), dm.val_dataloader(), ckpt_path=ckpt_path
        )
        return model

    whole = train(callbacks=[saver])
    assert whole.epochs() == [expected(epoch) for epoch in range(3)]
    for name in ("batch-6", "validation-4", "epoch-4", "epoch-8"):
        assert train(tmp_path / name).train_seen == whole.train_seen[saver.taken[name] :], name


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_module_may_be_validated_by_another_trainer_in_the_midst_of_a_training(num_workers, datamodule, expected):
    class Validating(Recorder):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            if batch_idx == 1:
                quiet_trainer().validate(other, dm, verbose=False)

    dm, model, other = datamodule(num_workers=num_workers), Validating(), Recorder()

    quiet_trainer(max_epochs=2).fit(model, dm)

    assert model.epochs() == [expected(0), expected(1)]
    assert [ids for _, _, ids in other.val_seen] == natural(VAL_ROWS) * 2


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"reload_dataloaders_every_n_epochs": 1}, {"limit_val_batches": 1}], ids=str)
def test_workers_end_with_the_run(options, datamodule):
    fit(datamodule(num_workers=2), num_sanity_val_steps=1, **options)

    assert wait_for_children() == []


def test_workers_end_with_a_run_that_fails(datamodule):
    class Failing(Recorder):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            if batch_idx == 1:
                raise RuntimeError("the model's own")

    dm = datamodule(num_workers=2)
    with pytest.raises(RuntimeError, match="the model's own"):
        quiet_trainer().fit(Failing(), dm)

    assert wait_for_children() == []


@pytest.mark.parametrize("validates", [True, False])
def test_workers_end_with_a_loader_that_is_used_alone(validates, datamodule):
    def use():
        dm = datamodule(num_workers=2) if validates else datamodule(num_workers=2, val=None)
        loader = dm.train_dataloader()  # a name in the frame in which the module was made
        for _ in loader:
            break
        assert len(list(loader)) == 4

    gc.disable()  # which would take five seconds a worker
    try:
        use()
        left = wait_for_children()
    finally:
        gc.enable()

    assert left == []


def wait_for_children():
    """Child processes that are left once those that end on their own have had a moment to."""
    for _ in range(20):
        if not multiprocessing.active_children():
            break
        time.sleep(0.1)
    return multiprocessing.active_children()


def test_the_state_is_small_and_plain(datamodule):
    loader = datamodule().train_dataloader()
    batches = iter(loader)
    next(batches)
    next(batches)

    state = loader.state_dict()

    assert len(json.dumps(state)) < 1024
    assert (state["epoch"], state["batches"]) == (0, 2)
    assert json.loads(json.dumps(state)) == state


@pytest.mark.parametrize(
    ("other", "named"),
    [({"seed": 6}, "seed"), ({"batch_size": 6}, "global_batch_size"), ({"streams": 3}, "streams")],
)
def test_the_state_of_another_order_is_refused(other, named, datamodule):
    state = datamodule().train_dataloader().state_dict()

    with pytest.raises(StateMismatchError, match=named):
        datamodule(**other).train_dataloader().load_state_dict(state)
