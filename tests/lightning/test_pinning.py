"""Batches in page-locked memory: for a GPU, and never without one."""

import pytest
import torch
from hydra import compose, initialize_config_module
from lightning.fabric.utilities import move_data_to_device

from fileset_integrations import schemas
from fileset_integrations.errors import SpecError
from fileset_integrations.lightning import FileSetDataModule
from tests.support.data import ids, numbered
from tests.support.fitting import ID_COLUMNS, Recorder, quiet_trainer

with_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")


@pytest.fixture(scope="module")
def fs(tmp_path_factory):
    return numbered(tmp_path_factory.mktemp("numbered"), (7, 12))


@without_gpu
@pytest.mark.parametrize("pin_memory", [None, False])
def test_without_a_gpu_nothing_is_pinned(pin_memory, fs):
    loader = FileSetDataModule(fs, batch_size=4, pin_memory=pin_memory).train_dataloader()

    assert not loader.pin_memory
    assert len(list(loader)) == 4


@without_gpu
def test_to_pin_without_a_gpu_is_refused_before_anything_is_read(fs):
    with pytest.raises(SpecError, match=r"pin_memory=True: there is no CUDA device .* or None"):
        FileSetDataModule(fs, batch_size=4, pin_memory=True)


@pytest.mark.parametrize("wrong", ["yes", 2, []])
def test_what_is_no_answer_is_refused(wrong, fs):
    with pytest.raises(SpecError, match="pin_memory="):
        FileSetDataModule(fs, batch_size=4, pin_memory=wrong)


@pytest.mark.parametrize("pin_memory", [None, True])
def test_where_there_is_a_gpu_every_tensor_of_every_batch_is_pinned_once(pin_memory, fs, monkeypatch):
    """The two calls that need a GPU are stood in for; the next test is on a real one."""
    expected = ids(FileSetDataModule(fs, batch_size=4).train_dataloader())
    pinned = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor.shape) or tensor.clone())

    batches = list(FileSetDataModule(fs, batch_size=4, pin_memory=pin_memory).train_dataloader())

    assert ids(batches) == expected
    assert pinned == [(4,)] * 4 * 3  # id, x, y
    assert all(isinstance(batch["name"], list) for batch in batches)


@with_gpu
@pytest.mark.parametrize("num_workers", [0, 2])
def test_on_a_gpu_batches_are_page_locked(num_workers, fs):
    batches = list(FileSetDataModule(fs, batch_size=4, num_workers=num_workers).train_dataloader())

    assert all(batch[name].is_pinned() for batch in batches for name in ("id", "x", "y"))


def test_the_config_for_a_gpu_mixes_precision_and_leaves_pinning_to_the_device():
    schemas.register()
    with initialize_config_module("fileset_integrations.conf", version_base="1.3"):
        config = compose("train", ["trainer=gpu", "paths.output_dir=unused"])

    assert (config.trainer.accelerator, config.trainer.devices) == ("gpu", 1)
    assert (config.trainer.precision, config.data.pin_memory) == ("bf16-mixed", None)


def test_batches_train_in_mixed_precision(fs):
    """The precision of trainer=gpu, which the processor has too."""
    model = Recorder()
    seen = []
    model.linear.register_forward_hook(lambda layer, inputs, output: seen.append(output.dtype))

    quiet_trainer(precision="bf16-mixed").fit(model, FileSetDataModule(fs, columns=ID_COLUMNS, batch_size=4))

    assert seen == [torch.bfloat16] * 4
    assert model.linear.weight.dtype == torch.float32


def test_the_trainer_copies_tensors_to_a_gpu_without_waiting(fs):
    """Lightning does so by itself for tensors in our kind of batch; pinned ones are copied beside the computing."""
    asked = []

    class Noted(torch.Tensor):
        def to(self, device, **options):
            asked.append((device, options))
            return self

    loader = FileSetDataModule(fs, columns=ID_COLUMNS, batch_size=4)
    loader.setup()
    x, y = next(iter(loader.train_dataloader()))
    noted = ({name: value.as_subclass(Noted) for name, value in x.items()}, y.as_subclass(Noted))

    move_data_to_device(noted, torch.device("cuda", 0))

    assert asked == [(torch.device("cuda", 0), {"non_blocking": True})] * 3
