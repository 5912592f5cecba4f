"""What a Trainer is told about its batches holds for ours."""

import pytest

from tests.support.fitting import EPOCHS, VAL_ROWS, fit, natural


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
