"""The recipes' classifiers: what they take and give, and what they refuse."""

import pyarrow as pa
import pytest
import torch

from fileset_integrations.columns import Columns, Hashed, Tokens
from fileset_integrations.errors import SpecError
from fileset_integrations.models.lightning import Encoder, ImageClassifier, TabularClassifier, TextClassifier
from fileset_integrations.summary import Summary
from tests.support.fitting import quiet_trainer

TEXT = {"text": {"shape": [12], "mean": [0.0] * 12, "std": [1.0] * 12}}
IMAGE = {"image": {"shape": [5, 4], "mean": [0.0] * 20, "std": [1.0] * 20}}
SCRIPT = {"script": {"codes": 3}}


def letters(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts of 3 to 12 letters, filled with zeros; class 1 holds "ab" somewhere, class 0 never does."""
    generator = torch.Generator().manual_seed(0)
    texts = torch.randint(100, 110, (rows, 12), generator=generator)
    labels = torch.randint(0, 2, (rows,), generator=generator)
    lengths = torch.randint(3, 13, (rows,), generator=generator)
    for text, label, length in zip(texts, labels, lengths, strict=True):
        if label:
            at = int(torch.randint(0, int(length) - 1, (), generator=generator))
            text[at : at + 2] = torch.tensor([97, 98])
        text[length:] = 0
    return texts, labels


def test_models_are_built_from_the_description_of_the_columns():
    schema = pa.schema([("words", pa.list_(pa.int32())), ("shop", pa.string()), ("price", pa.float64())])
    features = {"words": Tokens("words", 12, vocabulary_size=300), "shop": Hashed("shop", 64)}
    description = Columns(features).input_spec(schema)

    inputs = Summary(description).inputs()

    assert {"words": {"codes": 300, "shape": [12]}, "shop": {"codes": 64}}.items() <= inputs.items()
    assert TextClassifier(inputs, "words", num_classes=2).embedding.num_embeddings == 300
    assert [layer.num_embeddings for layer in Encoder({"shop": inputs["shop"]}, 8).embeddings] == [64]
    with pytest.raises(SpecError, match=r"'words' holds codes of shape \(12,\) a row"):
        Encoder(inputs, 8)


def test_a_text_classifier_finds_what_tells_classes_apart_anywhere_in_the_text():
    texts, labels = letters(600)
    torch.manual_seed(0)
    model = TextClassifier(TEXT, "text", num_classes=2, channels=16, width=3)
    batches = [(texts[at : at + 50], labels[at : at + 50]) for at in range(0, 500, 50)]
    quiet_trainer(max_epochs=4).fit(model, torch.utils.data.DataLoader(batches, batch_size=None))

    predicted = model.eval().predict_step((texts[500:], labels[500:]), 0)

    assert predicted.shape == (100,)
    assert (predicted == labels[500:]).float().mean() > 0.9


def test_a_classifier_of_rows_learns_from_numbers_and_codes():
    generator = torch.Generator().manual_seed(0)
    x = {
        "x": torch.rand((600, 3), generator=generator),
        "shop": torch.randint(0, 4, (600,), generator=generator),
    }
    labels = (x["x"][:, 0] > 0.5).long() + (x["shop"] == 2).long()
    inputs = {"x": {"shape": [3], "mean": [0.5] * 3, "std": [0.3] * 3}, "shop": {"codes": 4}}
    torch.manual_seed(0)
    model = TabularClassifier(inputs, num_classes=3, hidden=[32], dropout=0.0, lr=0.02)
    parts = [{name: one[at : at + 50] for name, one in x.items()} for at in range(0, 600, 50)]
    batches = list(zip(parts[:10], labels.split(50), strict=False))
    quiet_trainer(max_epochs=20).fit(model, torch.utils.data.DataLoader(batches, batch_size=None))

    right = sum((model.eval().predict_step(parts[i], 0) == labels.split(50)[i]).sum() for i in (10, 11))

    assert right > 90


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"hidden": [8, 0]}, r"model\.hidden is \[8, 0\]"),
        ({"embedding_size": 0}, r"model\.embedding_size is 0"),
        ({"dropout": 1.0}, r"model\.dropout is 1\.0; it must lie in \[0, 1\)"),
        ({"lr": 0.0}, r"model\.lr is 0\.0"),
        ({"lr": float("nan")}, r"model\.lr is nan"),
        ({"weight_decay": -1.0}, r"weight_decay -1\.0"),
    ],
)
def test_sizes_out_of_range_are_named(wrong, message):
    from fileset_integrations.models import keras as keras_models

    for make in (TabularClassifier, keras_models.tabular_classifier):
        with pytest.raises(SpecError, match=message):
            make(SCRIPT, num_classes=2, **wrong)


def test_the_keras_classifiers_give_a_score_for_each_class():
    from fileset_integrations.models import keras as keras_models

    rows = keras_models.tabular_classifier({**IMAGE, **SCRIPT}, num_classes=3)
    texts = keras_models.text_classifier({**TEXT, **SCRIPT}, "text", num_classes=3)
    script = torch.zeros(2, dtype=torch.int32)

    assert tuple(rows({"image": torch.zeros(2, 5, 4), "script": script}).shape) == (2, 3)
    assert tuple(texts({"text": torch.zeros(2, 12, dtype=torch.int32), "script": script}).shape) == (2, 3)
    with pytest.raises(SpecError, match=r"model\.text is 'texts'"):
        keras_models.text_classifier(TEXT, "texts", num_classes=3)


def test_what_fills_a_text_tells_nothing_of_itself():
    model = TextClassifier(TEXT, "text", num_classes=2)

    assert not model.embedding.weight[0].any()


@pytest.mark.parametrize("width", [1, 3, 7])
def test_a_text_classifier_takes_one_feature_as_a_tensor_and_several_as_a_dict(width):
    text = torch.zeros(3, 12, dtype=torch.int64)
    alone = TextClassifier(TEXT, "text", num_classes=4, width=width)
    among = TextClassifier(TEXT | SCRIPT, "text", num_classes=4, width=width)

    assert alone(text).shape == alone({"text": text}).shape == (3, 4)
    assert among({"text": text, "script": torch.ones(3)}).shape == (3, 4)
    with pytest.raises(SpecError, match="several features"):
        among(text)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TextClassifier(TEXT, "words", 2), r"model\.text is 'words'.*none of that name.*Features: text"),
        (lambda: TextClassifier(IMAGE, "image", 2), r"model\.text is 'image'.*its shape is \(5, 4\)"),
        (lambda: TextClassifier(SCRIPT, "script", 2), r"model\.text is 'script'.*shape=\(length,\)"),
        (lambda: TextClassifier(TEXT, "text", 2, width=4), r"model\.width is 4.*odd"),
        (lambda: TextClassifier(TEXT, "text", 2, lr=0), r"lr must be > 0"),
        (lambda: ImageClassifier(TEXT, "text", 2), r"model\.image is 'text'.*its shape is \(12,\)"),
        (lambda: ImageClassifier(IMAGE, "image", 2, weight_decay=-1), r"weight_decay >= 0"),
    ],
)
def test_what_a_classifier_cannot_take_is_refused(call, message):
    with pytest.raises(SpecError, match=message):
        call()
