"""What a batch is, and which columns it is made of."""

import pyarrow as pa
import pytest
import torch

from fileset_integrations import Columns
from fileset_integrations.columns import Category
from fileset_integrations.lightning import FileSetDataModule
from tests.support.data import fileset_of, table


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
