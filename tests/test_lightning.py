"""Lightning: rank, epoch and resume by itself; what the trainer sees is the reader's order."""

import gc
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
import warnings
from types import SimpleNamespace

import pyarrow as pa
import pytest
import torch
from lightning.pytorch import Callback

from fileset_integrations import Columns, FileSet, FileSetReader, Shard
from fileset_integrations.columns import Category
from fileset_integrations.errors import SchemaMismatchError, SpecError, StateMismatchError
from fileset_integrations.lightning import FileSetDataModule
from tests.support import ROOT
from tests.support.data import fileset_of, numbered, numbered_tables, table
from tests.support.ddp_fit import BATCH_SIZE as DDP_BATCH_SIZE
from tests.support.ddp_fit import SEED as DDP_SEED
from tests.support.fitting import ID_COLUMNS, Recorder, quiet_trainer

FILE_ROWS = (7, 0, 1, 12, 9)
ROWS = sum(FILE_ROWS)  # 29
BATCH = 7  # 4 full batches and one row
VAL_ROWS = 11
SEED = 5
EPOCHS = 3


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    return numbered(tmp_path_factory.mktemp("train"), FILE_ROWS)


@pytest.fixture(scope="module")
def val(tmp_path_factory):
    return numbered(tmp_path_factory.mktemp("val"), (4, 7))


@pytest.fixture(scope="module")
def expected(train):
    """The reader's training batches: expected(epoch) is a list of lists of ids."""
    reader = FileSetReader(train, batch_size=BATCH, shuffle=True, seed=SEED)
    return lambda epoch: [batch["id"].tolist() for batch in reader.iter_batches(epoch)]


@pytest.fixture
def datamodule(train, val):
    def make(**options):
        given = {"train": train, "val": val, "columns": ID_COLUMNS, "batch_size": BATCH, "seed": SEED}
        return FileSetDataModule(**given | options)

    return make


def natural(rows, batch_size=BATCH):
    return [list(range(rows))[at : at + batch_size] for at in range(0, rows, batch_size)]


def fit(dm, ckpt_path=None, **options):
    model = Recorder()
    quiet_trainer(**{"max_epochs": EPOCHS} | options).fit(model, dm, ckpt_path=ckpt_path)
    return model


# --- order -----------------------------------------------------------------------------------------------------------


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


def test_several_validation_filesets_are_loaders_of_their_own(datamodule, val, train):
    model = fit(datamodule(val=[val, train]), max_epochs=1)

    assert [ids for _, number, ids in model.val_seen if number == 0] == natural(VAL_ROWS)
    assert [ids for _, number, ids in model.val_seen if number == 1] == natural(ROWS)


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


def test_max_steps_ends_in_the_middle_of_an_epoch(datamodule, expected):
    model = fit(datamodule(), max_steps=6, max_epochs=-1)

    assert model.epochs() == [expected(0), expected(1)[:2]]


def test_a_run_warns_of_nothing(datamodule, tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(datamodule(), default_root_dir=tmp_path)

    ours = [str(one.message) for one in caught if "loader" in str(one.message) or "not writable" in str(one.message)]
    assert ours == []


def test_a_run_without_validation_trains(train, expected):
    dm = FileSetDataModule(train=train, columns=ID_COLUMNS, batch_size=BATCH, seed=SEED)

    assert fit(dm, max_epochs=1).epochs() == [expected(0)]


# --- the loader ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("drop_last_batch", [True, False])
def test_the_length_is_the_number_of_batches(num_workers, drop_last_batch, datamodule):
    dm = datamodule(num_workers=num_workers, drop_last_batch=drop_last_batch)

    loader = dm.train_dataloader()

    assert len(loader) == sum(1 for _ in loader) == (4 if drop_last_batch else 5)
    assert len(dm.val_dataloader()) == sum(1 for _ in dm.val_dataloader()) == 2


def test_an_iteration_begins_at_the_first_next_and_reads_the_epoch_there(datamodule, expected):
    dm = datamodule(pin_memory=False)
    dm.trainer = SimpleNamespace(global_rank=0, world_size=1, current_epoch=0)
    batches = iter(dm.train_dataloader())  # Lightning asks for it before the epoch is known

    dm.trainer.current_epoch = 2
    first = next(batches)
    dm.trainer.current_epoch = 3

    assert [first[0]["id"].tolist()] + [x["id"].tolist() for x, _ in batches] == expected(2)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_iterators_of_a_loader_do_not_disturb_each_other(num_workers, datamodule, expected):
    loader = datamodule(num_workers=num_workers).train_dataloader()

    pairs = [(left["id"].tolist(), right["id"].tolist()) for (left, _), (right, _) in zip(loader, loader, strict=True)]

    assert pairs == [(ids, ids) for ids in expected(0)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_iteration_that_is_broken_off_leaves_the_next_whole(num_workers, datamodule, expected):
    loader = datamodule(num_workers=num_workers).train_dataloader()

    for _ in loader:
        break

    assert [x["id"].tolist() for x, _ in loader] == expected(0)


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


def test_workers_end_with_a_loader_that_is_used_alone(datamodule):
    gc.disable()  # which would take five seconds a worker
    try:
        for _ in datamodule(num_workers=2).train_dataloader():
            break
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


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "structure"),
    [
        (Columns({"id": "id", "x": ["x"]}, label="y"), ({"id": (7,), "x": (7, 1)}, (7,))),
        (Columns({"id": "id", "x": ["x"]}, label="y", weight="x"), ({"id": (7,), "x": (7, 1)}, (7,), (7,))),
        (Columns({"id": "id", "x": ["x"]}), {"id": (7,), "x": (7, 1)}),
        (Columns({"x": ["x", "y"]}, label="y"), ((7, 2), (7,))),
        (Columns({"x": ["x", "y"]}), (7, 2)),
    ],
    ids=["x,y", "x,y,w", "x", "one feature,y", "one feature"],
)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_batch_is_what_models_take(columns, structure, num_workers, datamodule):
    batch = next(iter(datamodule(columns=columns, num_workers=num_workers).train_dataloader()))

    def shapes(part):
        if isinstance(part, dict):
            return {name: shapes(value) for name, value in part.items()}
        return tuple(map(shapes, part)) if isinstance(part, tuple) else tuple(part.shape)

    assert shapes(batch) == structure


def test_without_columns_a_batch_is_a_dict_of_one_tensor_a_column(datamodule):
    batch = next(iter(datamodule(columns=None).train_dataloader()))

    assert {name: type(value) for name, value in batch.items()} == {
        "id": torch.Tensor,
        "x": torch.Tensor,
        "y": torch.Tensor,
        "name": list,
    }


def test_columns_are_fitted_on_train_and_used_everywhere(tmp_path):
    fitted_on = fileset_of(tmp_path / "train", table({"carrier": (["AA", "B6", "AA", None], pa.string())}))
    other = fileset_of(tmp_path / "val", table({"carrier": (["ZZ", "B6", "AA", "B6", None], pa.string())}))
    columns = Columns({"carrier": Category("carrier")})
    dm = FileSetDataModule(train=fitted_on, val=other, test=other, predict=other, columns=columns, batch_size=5)

    dm.setup()
    codes = [next(iter(loader())).tolist() for loader in (dm.val_dataloader, dm.test_dataloader, dm.predict_dataloader)]

    assert dm.columns.vocabularies == {"carrier": ("AA", "B6")}
    assert codes == [[1, 3, 2, 3, 0]] * 3  # ZZ was never seen: 1; null: 0


def test_a_transform_is_for_training_only(datamodule):
    def negate(batch, generator):
        del generator
        return batch | {"label": -batch["label"]}

    dm = datamodule(transform=negate, shuffle=False)

    assert next(iter(dm.train_dataloader()))[1].tolist() == list(range(7))
    assert next(iter(dm.val_dataloader()))[1].tolist() == [-row for row in range(7)]


# --- resume ----------------------------------------------------------------------------------------------------------


class SaveEverywhere(Callback):
    """Checkpoints whenever Lightning's own callback may take one; `taken` says after how many batches each was."""

    def __init__(self, folder):
        self.folder, self.taken = folder, {}

    def _save(self, trainer, model, moment):
        name = f"{moment}-{len(model.train_seen)}"
        trainer.save_checkpoint(self.folder / name)
        self.taken[name] = len(model.train_seen)

    def on_train_batch_end(self, trainer, pl_module, *_):
        self._save(trainer, pl_module, "batch")

    def on_validation_end(self, trainer, pl_module):
        self._save(trainer, pl_module, "validation")

    def on_train_epoch_end(self, trainer, pl_module):
        self._save(trainer, pl_module, "epoch")


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


def test_a_checkpoint_of_another_seed_is_refused(uninterrupted, datamodule):
    with pytest.raises(StateMismatchError, match=r"seed=5.*seed=6"):
        fit(datamodule(seed=6), ckpt_path=uninterrupted.folder / "batch-3", max_epochs=2)


# --- hyperparameters, configuration ----------------------------------------------------------------------------------


def make_fileset(location, name, rows):
    return FileSet.make(
        target_stage_loc=location,
        name=name,
        query=f"SELECT i AS id, i + 0.25::DOUBLE AS x, (-i)::FLOAT AS y FROM range({rows}) AS r(i)",
    )


def test_strings_name_filesets_and_a_checkpoint_makes_the_module_again(tmp_path):
    make_fileset(tmp_path / "sets", "flights", 20)
    make_fileset(tmp_path / "sets", "late", 6)
    dm = FileSetDataModule(
        train=f"{tmp_path}/sets/flights",
        val=[f"{tmp_path}/sets/late"],
        test=f"{tmp_path}/sets/late",
        columns=ID_COLUMNS,
        batch_size=4,
        seed=2,
    )
    saver = SaveEverywhere(tmp_path)

    model = fit(dm, max_epochs=1, callbacks=[saver])
    again = FileSetDataModule.load_from_checkpoint(tmp_path / "epoch-5", columns=ID_COLUMNS)

    saved = torch.load(tmp_path / "epoch-5", weights_only=True)
    assert saved["datamodule_hyper_parameters"]["train"] == f"{tmp_path}/sets/flights"
    assert sorted(row for ids in model.epochs()[0] for row in ids) == list(range(20))
    assert fit(again, max_epochs=1).train_seen == model.train_seen


def test_a_list_for_train_is_one_fileset_and_a_list_for_val_a_loader_for_each(tmp_path, train, val):
    make_fileset(tmp_path / "sets", "flights", 20)
    late = fileset_of(tmp_path / "late", *numbered_tables((3, 3)))
    part = train.split(kept=0.5, rest=0.5)["kept"]
    dm = FileSetDataModule(
        train=[late, val], val=[late, part], test=[[late, late], part], columns=ID_COLUMNS, batch_size=BATCH, seed=SEED
    )

    model = fit(dm, max_epochs=1, callbacks=[(saver := SaveEverywhere(tmp_path))])
    quiet_trainer().test(model, dm, verbose=False)

    reader = FileSetReader([late, val], batch_size=BATCH, shuffle=True, seed=SEED)
    assert model.epochs() == [[batch["id"].tolist() for batch in reader]] and len(reader) == 2
    kept = part.to_arrow(["id"])["id"].to_pylist()
    by_loader = [[row for _, at, ids in model.val_seen if at == place for row in ids] for place in (0, 1)]
    assert by_loader == [list(range(6)), kept]
    assert [row for at, ids in model.test_seen if at == 0 for row in ids] == [*range(6), *range(6)]
    assert [row for at, ids in model.test_seen if at == 1 for row in ids] == kept
    assert saver.taken
    saved = torch.load(tmp_path / "batch-1", weights_only=True)["datamodule_hyper_parameters"]
    assert saved["val"] == [repr(late), repr(part)] and saved["test"] == [[repr(late)] * 2, repr(part)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_one_part_is_trained_on_and_the_others_validated_and_tested(num_workers, train):
    parts = train.split(train=0.6, val=0.2, test=0.2, seed=1)
    dm = FileSetDataModule(**parts, columns=ID_COLUMNS, batch_size=4, seed=SEED, num_workers=num_workers)

    model = fit(dm, max_epochs=2)
    quiet_trainer().test(model, dm, verbose=False)

    reader = FileSetReader(parts["train"], batch_size=4, shuffle=True, seed=SEED)
    assert model.epochs() == [[batch["id"].tolist() for batch in reader.iter_batches(epoch)] for epoch in (0, 1)]
    held_out = [part.to_arrow(["id"])["id"].to_pylist() for part in (parts["val"], parts["test"])]
    assert [row for epoch, _, ids in model.val_seen if epoch == 1 for row in ids] == held_out[0]
    assert [row for _, ids in model.test_seen for row in ids] == held_out[1]


def test_strings_in_a_list_name_filesets(tmp_path):
    for name, rows in (("one", 9), ("two", 5)):
        make_fileset(tmp_path, name, rows)
    strings = [f"{tmp_path}/one", f"{tmp_path}/two"]
    dm = FileSetDataModule(train=strings, val=strings, columns=ID_COLUMNS, batch_size=7, shuffle=False)

    model = fit(dm, max_epochs=1)

    assert model.epochs() == [[list(range(7)), [7, 8, 0, 1, 2, 3, 4]]]
    assert [(at, len(ids)) for _, at, ids in model.val_seen] == [(0, 7), (0, 2), (1, 5)]
    assert dm.hparams["train"] == dm.hparams["val"] == strings


def test_columns_are_fitted_on_all_of_a_list(tmp_path):
    one, two = (fileset_of(tmp_path / name, table({"c": ([name], pa.string())})) for name in ("AA", "B6"))
    dm = FileSetDataModule(train=[one, two], val=two, columns=Columns({"c": Category("c")}), batch_size=1)

    dm.setup()

    assert dm.columns.vocabularies == {"c": ("AA", "B6")}


def test_filesets_of_a_list_that_differ_in_a_column_are_refused(tmp_path):
    one = fileset_of(tmp_path / "one", table({"id": ([1], pa.int64())}))
    two = fileset_of(tmp_path / "two", table({"id": ([1], pa.int32())}))

    with pytest.raises(SchemaMismatchError, match=r"'id' is int64 in .*one'\), but int32 in .*two'\)"):
        FileSetDataModule(train=[one, two], batch_size=1).setup()


def test_hyperparameters_are_plain_and_hold_no_secret(datamodule, train, val, tmp_path):
    secret = "hunter2"
    dm = datamodule(
        train=train,
        val=[val],
        storage_options={"key": secret, "client_kwargs": {"token": secret}},
        cache_dir=str(tmp_path),
    )
    saver = SaveEverywhere(tmp_path)

    fit(dm, max_epochs=1, callbacks=[saver])

    saved = torch.load(tmp_path / "batch-2", weights_only=True)
    hyperparameters = saved["datamodule_hyper_parameters"]
    assert json.loads(json.dumps(hyperparameters)) == hyperparameters
    assert hyperparameters["batch_size"] == BATCH
    assert secret.encode() not in (tmp_path / "batch-2").read_bytes()
    assert secret not in str(dm) + repr(dm) + str(dm.hparams)


def test_text_of_a_module_has_no_side_effects(datamodule, train, monkeypatch):
    columns = Columns({"name": Category("name"), "id": "id"}, label="y")
    dm = datamodule(columns=columns)

    def refuse(*args, **kwargs):
        raise AssertionError("a file was read")

    monkeypatch.setattr(FileSet, "read_file", refuse)
    monkeypatch.setattr(FileSet, "scan", refuse)
    text = str(dm)

    assert "FileSetDataModule" in text
    assert repr(train) in text
    assert dm.columns is columns


def test_the_rank_is_the_trainers_though_loaders_were_made_before_it(datamodule):
    dm = datamodule(pin_memory=False)
    dm.setup("fit")
    before = dm.train_dataloader().reader.shard

    dm.trainer = SimpleNamespace(global_rank=1, world_size=2, current_epoch=0)

    assert before == Shard(0, 1)
    assert dm.train_dataloader().reader.shard == Shard(1, 2)
    assert dm.val_dataloader().reader.shard == Shard(1, 2)


def test_a_module_can_be_pickled(datamodule, expected):
    dm = pickle.loads(pickle.dumps(datamodule()))

    assert [x["id"].tolist() for x, _ in dm.train_dataloader()] == expected(0)


def test_unfitted_columns_without_train_are_refused(val):
    dm = FileSetDataModule(val=val, columns=ID_COLUMNS, batch_size=2)

    with pytest.raises(SpecError, match="train="):
        quiet_trainer().validate(Recorder(), dm, verbose=False)


def test_fitted_columns_need_no_train(train, val):
    dm = FileSetDataModule(val=val, columns=ID_COLUMNS.fit(train), batch_size=BATCH)
    model = Recorder()

    quiet_trainer().validate(model, dm, verbose=False)

    assert [ids for _, _, ids in model.val_seen] == natural(VAL_ROWS)


def test_training_without_train_is_refused(val, train):
    dm = FileSetDataModule(val=val, columns=ID_COLUMNS.fit(train), batch_size=2)

    with pytest.raises(SpecError, match="train="):
        fit(dm)


def test_training_without_a_full_batch_is_refused(datamodule):
    with pytest.raises(SpecError, match=r"29 rows.*batch_size"):
        fit(datamodule(batch_size=30))


def test_validation_of_a_fileset_without_rows_sees_none(datamodule, tmp_path):
    model = fit(datamodule(val=numbered(tmp_path, (0,))), max_epochs=1)

    assert model.val_seen == []
    assert len(model.train_seen) == 4


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"train": 3}, "train"),
        ({"train": []}, "train"),
        ({"val": [3]}, "val"),
        ({"test": []}, "test"),
        ({"num_workers": -1}, "num_workers"),
        ({"num_workers": True}, "num_workers"),
        ({"batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"streams": 0}, "streams"),
        ({"blocks": "ram"}, "blocks"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_refused_by_name(wrong, named, datamodule):
    with pytest.raises(SpecError, match=named):
        datamodule(**wrong).train_dataloader()


# --- many processes --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_ranks_share_uneven_files_and_walk_the_sequence_of_one(tmp_path):
    rows, val_rows = (17, 2, 30, 1), 11
    train, val = numbered(tmp_path / "train", rows), numbered(tmp_path / "val", (8, 3))

    done = subprocess.run(
        [sys.executable, "-m", "tests.support.ddp_fit", str(tmp_path), "2"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )

    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    size = 2 * DDP_BATCH_SIZE
    order = {"batch_size": size, "shuffle": True, "seed": DDP_SEED}
    reader = FileSetReader(train, **order)
    assert [rank["length"] for rank in ranks] == [len(reader)] * 2 == [sum(rows) // size] * 2
    for epoch in range(2):
        together = [interleaved(*pair) for pair in zip(*(rank["train"][epoch] for rank in ranks), strict=True)]
        assert together == [batch["id"].tolist() for batch in reader.iter_batches(epoch)]
        seen = [[row for ids in rank["val"][epoch] for row in ids] for rank in ranks]
        assert sorted(seen[0] + seen[1]) == list(range(val_rows)) == list(range(val.num_rows))
        assert len(ranks[0]["val"][epoch]) == len(ranks[1]["val"][epoch])
    plain = [[row for ids in rank["plain"] for row in ids] for rank in ranks]
    assert sorted(plain[0] + plain[1]) == list(range(sum(rows)))


def interleaved(left, right):
    return [row for pair in zip(left, right, strict=True) for row in pair]
