"""The data module: what it takes, keeps, shows and refuses."""

import json
import pickle

import pyarrow as pa
import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.device_mesh import init_device_mesh

from fileset_integrations import Columns, FileSet, FileSetReader, Shard
from fileset_integrations.columns import Category
from fileset_integrations.errors import FileSetLocationError, SchemaMismatchError, SpecError
from fileset_integrations.lightning import FileSetDataModule
from tests.support.data import fileset_of, numbered, numbered_tables, table
from tests.support.fitting import (
    BATCH,
    ID_COLUMNS,
    SEED,
    VAL_ROWS,
    Recorder,
    SaveEverywhere,
    fit,
    natural,
    quiet_trainer,
)


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


@pytest.mark.parametrize("argument", ["train", "val"])
def test_a_url_with_credentials_is_refused_before_it_is_kept(argument, train):
    where = "s3://AKIAKEY:hunter2@bucket/sets/x"

    for source in (where, [train, where], [3, where]):
        with pytest.raises(FileSetLocationError, match=r"^s3://\.\.\.: user and password stand in the URL"):
            FileSetDataModule(**{argument: source}, batch_size=2)


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
    dm = datamodule()
    dm.setup("fit")
    before = dm.train_dataloader().reader.shard

    dm.trainer = quiet_trainer(strategy="ddp_spawn", devices=2)
    dm.trainer.strategy.cluster_environment.set_global_rank(1)

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


@pytest.mark.parametrize("stage", ["test", "predict"])
def test_a_trainer_that_asks_for_what_was_not_given_is_told_so(stage, datamodule):
    with pytest.raises(SpecError, match=rf"There is no {stage}=.*to the data module"):
        getattr(quiet_trainer(), stage)(Recorder(), datamodule())


def test_a_subclass_may_bring_a_validation_loader_of_its_own(train, val):
    class Own(FileSetDataModule):
        def val_dataloader(self):
            return FileSetDataModule(train=val, columns=self.columns, batch_size=4, shuffle=False).train_dataloader()

    model = fit(Own(train=train, columns=ID_COLUMNS, batch_size=BATCH), max_epochs=1)

    assert [ids for _, _, ids in model.val_seen] == natural(VAL_ROWS, 4)[:2]


def test_ranks_that_hold_parts_of_one_model_see_the_same_rows(datamodule, tmp_path):
    # A group of one process, and a mesh over it: who shares which copy of the model is the mesh's to say.
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    try:
        strategy = ModelParallelStrategy(process_group_backend="gloo")
        dm = datamodule()
        dm.trainer = quiet_trainer(strategy=strategy, devices=2)
        strategy._device_mesh = init_device_mesh("cpu", (1, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))

        assert dm.trainer.world_size == 2
        assert dm.train_dataloader().reader.shard == Shard(0, 1)
    finally:
        torch.distributed.destroy_process_group()


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
        ({"pull": "yes"}, "pull"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_refused_by_name(wrong, named, datamodule):
    with pytest.raises(SpecError, match=named):
        datamodule(**wrong).train_dataloader()
