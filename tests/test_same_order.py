"""One small order, pinned literally in tests.support.golden: every way to read a FileSet yields it."""

import pytest

from fileset_integrations import Columns, FileSetReader
from tests.support.golden import (
    GOLDEN_ARGUMENTS,
    GOLDEN_BATCHES,
    GOLDEN_FULL_BATCHES,
    golden_fileset,
)

EPOCHS = len(GOLDEN_BATCHES)
COLUMNS = Columns({"id": "id", "x": ["x"]}, label="y")


@pytest.fixture(scope="module")
def fs(tmp_path_factory):
    return golden_fileset(tmp_path_factory.mktemp("golden"))


@pytest.fixture(params=[True, False], ids=["full batches", "every row"])
def drop_last_batch(request):
    return request.param


@pytest.fixture
def golden(drop_last_batch):
    return list(GOLDEN_FULL_BATCHES if drop_last_batch else GOLDEN_BATCHES)


@pytest.fixture
def arguments(drop_last_batch):
    return {**GOLDEN_ARGUMENTS, "drop_last_batch": drop_last_batch}


def test_the_reader_yields_the_golden_order(fs, arguments, golden):
    reader = FileSetReader(fs, **arguments)

    assert [[batch["id"].tolist() for batch in reader.iter_batches(epoch)] for epoch in range(EPOCHS)] == golden
    assert [
        [reader.batch(index, epoch)["id"].tolist() for index in range(len(reader))] for epoch in range(EPOCHS)
    ] == golden


@pytest.mark.parametrize("num_workers", [0, 2])
def test_torch_yields_the_golden_order(num_workers, fs, arguments, golden):
    data = pytest.importorskip("torch.utils.data")
    loader = data.DataLoader(fs.to_torch_datapipe(**arguments), batch_size=None, num_workers=num_workers)

    assert [[batch["id"].tolist() for batch in loader] for _ in range(EPOCHS)] == golden


@pytest.mark.parametrize("num_workers", [0, 2])
def test_lightning_yields_the_golden_order(num_workers, fs, arguments, golden):
    pytest.importorskip("lightning.pytorch")
    from fileset_integrations.lightning import FileSetDataModule
    from tests.support.fitting import Recorder, quiet_trainer

    dm = FileSetDataModule(train=fs, columns=COLUMNS, num_workers=num_workers, **arguments)
    model = Recorder()
    quiet_trainer(max_epochs=EPOCHS).fit(model, dm)

    assert model.epochs() == golden


def test_keras_yields_the_golden_order(fs, arguments, golden):
    keras = pytest.importorskip("keras")
    from fileset_integrations.keras import FileSetPyDataset

    seen = {}

    class Noted(FileSetPyDataset):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            seen.setdefault(clock.epoch, []).append(x["id"].tolist())
            return x["x"], y

    class Clock(keras.callbacks.Callback):
        epoch = -1  # Keras asks for a batch to build the model before the first epoch

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

    clock, ds = Clock(), Noted(fs, columns=COLUMNS, **arguments)
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", loss="mse")
    model.fit(ds, epochs=EPOCHS, shuffle=False, callbacks=[ds.callback(), clock], verbose=0)

    assert [seen[epoch] for epoch in range(EPOCHS)] == golden


def test_tf_data_yields_the_golden_order(fs, arguments, golden):
    pytest.importorskip("tensorflow")
    dataset = fs.to_tf_dataset(**arguments)

    assert [[batch["id"].numpy().tolist() for batch in dataset] for _ in range(EPOCHS)] == golden
