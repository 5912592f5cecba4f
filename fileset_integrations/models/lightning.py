"""Lightning models of the recipes: a regressor for rows with categories, small classifiers for images and for texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanAbsoluteError, MeanSquaredError
from torchmetrics.classification import MulticlassAccuracy

from fileset_integrations.errors import SpecError
from fileset_integrations.summary import (
    InputSpec,
    check_baseline,
    check_codes,
    check_dropout,
    check_image,
    check_layers,
    check_optimizer,
    check_text,
)

Inputs = Tensor | dict[str, Tensor]


class Encoder(nn.Module):
    """From a batch's features to one vector a row: numbers centred and scaled, a learnt vector for each code.

    Args:
        inputs: Description of every feature (`Summary.inputs`).
        embedding_size: Longest vector of a category; one with few codes gets a shorter one.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, inputs: Mapping[str, InputSpec], embedding_size: int) -> None:
        super().__init__()
        check_codes(inputs)
        self._numbers = [name for name, spec in inputs.items() if "codes" not in spec]
        self._categories = [name for name, spec in inputs.items() if "codes" in spec]
        mean = [value for name in self._numbers for value in inputs[name]["mean"]]
        std = [value for name in self._numbers for value in inputs[name]["std"]]
        # Buffers: they travel with the weights, and no optimizer touches them.
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))
        self.embeddings = nn.ModuleList(
            nn.Embedding(inputs[name]["codes"], min(embedding_size, inputs[name]["codes"])) for name in self._categories
        )
        self.size = len(mean) + sum(cast(nn.Embedding, layer).embedding_dim for layer in self.embeddings)

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        """Vectors of shape (batch, size)."""
        parts = [layer(x[name]) for name, layer in zip(self._categories, self.embeddings, strict=True)]
        if self._numbers:
            numbers = torch.cat(
                [x[name].flatten(1) if x[name].ndim > 1 else x[name][:, None] for name in self._numbers], 1
            )
            parts.insert(0, (numbers.to(self.mean.dtype) - self.mean) / self.std)
        return torch.cat(parts, 1)


class TabularRegressor(lightning.LightningModule):
    """Hidden layers over numbers and categories; the output may be a correction to one of the features.

    Args:
        inputs: Description of every feature (`Summary.inputs`).
        target: Mean and standard deviation of what the output is to be, before `baseline` is added (`Summary.target`).
        baseline: Feature, shape (batch,), to which the output is added; None for none.
        hidden: Units of each hidden layer.
        embedding_size: Longest vector of a category.
        dropout: Share of hidden units left out in training.
        lr: Highest learning rate; it rises to that and falls again over the whole training.
        weight_decay: Of AdamW.
    """

    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self,
        inputs: dict[str, InputSpec],
        target: dict[str, float],
        baseline: str | None = None,
        hidden: Sequence[int] = (128, 64),
        embedding_size: int = 8,
        dropout: float = 0.1,
        lr: float = 0.01,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__()
        check_baseline(inputs, baseline)
        check_layers(hidden, embedding_size, dropout)
        check_optimizer(lr, weight_decay)
        hidden = list(hidden)  # a tuple's elements are plain in a checkpoint too, but Hydra hands over lists
        self.save_hyperparameters()
        self._baseline, self._lr, self._weight_decay = baseline, lr, weight_decay
        self._only_input = next(iter(inputs)) if len(inputs) == 1 else None
        self.encoder = Encoder(inputs, embedding_size)
        self.layers = _hidden_layers(self.encoder.size, hidden, dropout, 1)
        self.register_buffer("target_mean", torch.tensor(target["mean"]))
        self.register_buffer("target_std", torch.tensor(target["std"]))
        self.rmse = MeanSquaredError(squared=False)
        self.mae = MeanAbsoluteError()

    def forward(self, x: Inputs) -> Tensor:
        """Predictions in the label's unit, shape (batch,)."""
        features = _as_dict(x, self._only_input)
        output: Tensor = self.layers(self.encoder(features)).squeeze(1) * self.target_std + self.target_mean
        return output if self._baseline is None else output + features[self._baseline].to(output.dtype)

    def training_step(self, batch: tuple[Inputs, Tensor], batch_idx: int) -> Tensor:
        """Mean squared error, in the label's unit squared."""
        x, y = batch
        loss = functional.mse_loss(self(x), y.to(self.target_mean.dtype))
        self.log("loss", loss, on_step=True, on_epoch=True, sync_dist=True, batch_size=len(y))
        return loss

    def validation_step(self, batch: tuple[Inputs, Tensor], batch_idx: int) -> None:
        """Logs `val_loss`, `val_rmse` and `val_mae`."""
        x, y = batch
        y = y.to(self.target_mean.dtype)
        predicted = self(x)
        self.rmse(predicted, y)
        self.mae(predicted, y)
        self.log("val_loss", functional.mse_loss(predicted, y), sync_dist=True, batch_size=len(y))
        self.log("val_rmse", self.rmse, prog_bar=True, batch_size=len(y))
        self.log("val_mae", self.mae, batch_size=len(y))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Predictions of one batch, shape (batch,)."""
        return cast(Tensor, self(batch[0] if isinstance(batch, tuple | list) else batch))

    def configure_optimizers(self) -> Any:
        """AdamW with one cycle of the learning rate."""
        return _one_cycle(self, self._lr, self._weight_decay)


class _Classifier(lightning.LightningModule):
    """What classifiers share: cross entropy, accuracy, and one cycle of the learning rate."""

    def __init__(self, num_classes: int, lr: float, weight_decay: float) -> None:
        super().__init__()
        check_optimizer(lr, weight_decay)
        self._lr, self._weight_decay = lr, weight_decay
        self.accuracy = MulticlassAccuracy(num_classes=num_classes, average="micro")

    def training_step(self, batch: tuple[Inputs, Tensor], batch_idx: int) -> Tensor:
        """Cross entropy."""
        x, y = batch
        loss = functional.cross_entropy(self(x), y.long())
        self.log("loss", loss, on_step=True, on_epoch=True, sync_dist=True, batch_size=len(y))
        return loss

    def validation_step(self, batch: tuple[Inputs, Tensor], batch_idx: int) -> None:
        """Logs `val_loss` and `val_accuracy`."""
        x, y = batch
        logits = self(x)
        self.accuracy(logits, y)
        self.log("val_loss", functional.cross_entropy(logits, y.long()), sync_dist=True, batch_size=len(y))
        self.log("val_accuracy", self.accuracy, prog_bar=True, batch_size=len(y))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Classes of one batch, shape (batch,)."""
        return cast(Tensor, self(batch[0] if isinstance(batch, tuple | list) else batch).argmax(1))

    def configure_optimizers(self) -> Any:
        """AdamW with one cycle of the learning rate."""
        return _one_cycle(self, self._lr, self._weight_decay)


class TabularClassifier(_Classifier):
    """Hidden layers over numbers and categories, and a score for each class.

    Args:
        inputs: Description of every feature (`Summary.inputs`).
        num_classes: Labels are integers in [0, num_classes).
        hidden: Units of each hidden layer.
        embedding_size: Longest vector of a category.
        dropout: Share of hidden units left out in training.
        lr: Highest learning rate; it rises to that and falls again over the whole training.
        weight_decay: Of AdamW.
    """

    def __init__(
        self,
        inputs: dict[str, InputSpec],
        num_classes: int,
        hidden: Sequence[int] = (128, 64),
        embedding_size: int = 8,
        dropout: float = 0.1,
        lr: float = 0.01,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(num_classes, lr, weight_decay)
        check_layers(hidden, embedding_size, dropout)
        hidden = list(hidden)
        self.save_hyperparameters()
        self._only_input = next(iter(inputs)) if len(inputs) == 1 else None
        self.encoder = Encoder(inputs, embedding_size)
        self.layers = _hidden_layers(self.encoder.size, hidden, dropout, num_classes)

    def forward(self, x: Inputs) -> Tensor:
        """Scores before the softmax, shape (batch, num_classes)."""
        return cast(Tensor, self.layers(self.encoder(_as_dict(x, self._only_input))))


class ImageClassifier(_Classifier):
    """Two convolutions and a linear layer over single-channel images.

    Args:
        inputs: Description of the features (`Summary.inputs`).
        image: Feature that holds the images, shape (batch, height, width).
        num_classes: Labels are integers in [0, num_classes).
        channels: Of the first convolution; the second has twice as many.
        lr: Highest learning rate; it rises to that and falls again over the whole training.
        weight_decay: Of AdamW.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        inputs: dict[str, InputSpec],
        image: str,
        num_classes: int,
        channels: int = 16,
        lr: float = 0.01,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(num_classes, lr, weight_decay)
        height, width = check_image(inputs, image)
        self.save_hyperparameters()
        self._image = image
        self._only_input = image if len(inputs) == 1 else None
        mean, std = inputs[image]["mean"], inputs[image]["std"]
        # One number for all pixels: an image's edge is blank, and scaling it up pixel by pixel would make noise of it.
        self.register_buffer("mean", torch.tensor(sum(mean) / len(mean)))
        self.register_buffer("std", torch.tensor(math.sqrt(sum(value**2 for value in std) / len(std))))
        self.layers = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Flatten(),
            nn.Linear(2 * channels * math.ceil(height / 2) * math.ceil(width / 2), num_classes),
        )

    def forward(self, x: Inputs) -> Tensor:
        """Scores before the softmax, shape (batch, num_classes)."""
        images = _as_dict(x, self._only_input)[self._image].to(self.mean.dtype)
        return cast(Tensor, self.layers(((images - self.mean) / self.std)[:, None]))


class TextClassifier(_Classifier):
    """A learnt vector for each element of a text, a convolution over runs of them, and the strongest answer of each.

    Args:
        inputs: Description of the features (`Summary.inputs`).
        text: Feature that holds the texts, integers of shape (batch, length); 0 is what short texts are filled with.
        num_classes: Labels are integers in [0, num_classes).
        vocabulary_size: Elements are integers in [0, vocabulary_size), unless `inputs` says how many codes there are.
        embedding_size: Of each element's vector.
        channels: Of the convolution.
        width: Elements in a run, an odd number.
        dropout: Share of channels left out in training.
        lr: Highest learning rate; it rises to that and falls again over the whole training.
        weight_decay: Of AdamW.
    """

    def __init__(
        self,
        inputs: dict[str, InputSpec],
        text: str,
        num_classes: int,
        vocabulary_size: int = 256,
        embedding_size: int = 16,
        channels: int = 128,
        width: int = 5,
        dropout: float = 0.2,
        lr: float = 0.01,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(num_classes, lr, weight_decay)
        check_dropout(dropout)
        check_text(inputs, text, width)
        self.save_hyperparameters()
        self._text = text
        self._only_input = text if len(inputs) == 1 else None
        codes = inputs[text].get("codes", vocabulary_size)
        self.embedding = nn.Embedding(codes, embedding_size, padding_idx=0)
        self.convolution = nn.Conv1d(embedding_size, channels, width, padding=width // 2)
        self.output = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, num_classes))

    def forward(self, x: Inputs) -> Tensor:
        """Scores before the softmax, shape (batch, num_classes)."""
        vectors = self.embedding(_as_dict(x, self._only_input)[self._text].long())
        return cast(Tensor, self.output(torch.relu(self.convolution(vectors.transpose(1, 2))).amax(2)))


def _as_dict(x: Inputs, only_input: str | None) -> dict[str, Tensor]:
    # The faces hand on a lone feature as the tensor itself.
    if isinstance(x, Tensor):
        if only_input is None:
            raise SpecError("The model has several features and was given a single tensor. Pass a dict of all of them.")
        return {only_input: x}
    return x


def _hidden_layers(size: int, hidden: Sequence[int], dropout: float, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, units in zip([size, *hidden], hidden, strict=False):
        layers += [nn.Linear(before, units), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(hidden[-1] if hidden else size, outputs))


def _one_cycle(module: lightning.LightningModule, lr: float, weight_decay: float) -> Any:
    optimizer = torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=weight_decay)
    # Lightning knows the steps of the whole training, limits and ranks included.
    steps = int(module.trainer.estimated_stepping_batches)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=max(steps, 1))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
