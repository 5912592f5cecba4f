"""How good a model is: every validation row counts once, beside answers that need no model."""

import math

import numpy as np
import pytest

from fileset_integrations.errors import FileSetError, SpecError
from fileset_integrations.outcome import Classification, Outcome, Regression, Score


def batches(*sizes: int, seed: int = 0):
    generator = np.random.default_rng(seed)
    return [{"late": generator.normal(size=n), "label": generator.normal(size=n) + 3} for n in sizes]


def test_a_regression_counts_every_row_once():
    evaluation, rows = Regression(baseline="late"), batches(30, 1, 0, 12)
    for batch in rows:
        evaluation.learn(batch)
    label, late = (np.concatenate([batch[name] for batch in rows]) for name in ("label", "late"))

    outcome = evaluation.score(rows, lambda batch: batch["late"] * 2, num_rows=43)

    expected = [late * 2, np.full(43, label.mean()), late + (label - late).mean()]
    assert outcome.num_rows == 43
    for score, answer in zip(outcome.scores, expected, strict=True):
        assert score.values == pytest.approx(
            {"RMSE": math.sqrt(np.square(answer - label).mean()), "MAE": np.abs(answer - label).mean()}
        )
    assert outcome.metrics == {"val_rmse": outcome.scores[0].values["RMSE"], "val_mae": outcome.scores[0].values["MAE"]}


def test_a_classification_counts_every_row_once(tmp_path):
    evaluation = Classification(num_classes=3, features="x")
    evaluation.learn({"x": np.array([[0.0], [10.0], [10.0]]), "label": np.array([0, 1, 1])})
    rows = [
        {"x": np.array([[1.0], [9.0]]), "label": np.array([0, 1])},
        {"x": np.array([[9.0], [9.0]]), "label": np.array([2, 0])},
    ]

    outcome = evaluation.score(rows, lambda batch: np.array([0, 2]), num_rows=4)

    # The model answers 0, 2, 0, 2; always 1 is right once; the nearest mean says 0, 1, 1, 1.
    assert [score.values["accuracy"] for score in outcome.scores] == [0.25, 0.25, 0.5]
    assert outcome.metrics == {"val_accuracy": 0.25}
    assert [path.stat().st_size > 0 for path in outcome.draw(tmp_path)] == [True]


def test_a_classification_answers_with_the_commonest_class_of_a_code():
    evaluation = Classification(num_classes=3, baseline="script")
    evaluation.learn({"script": np.array([2, 2, 2, 3]), "label": np.array([1, 1, 0, 2])})
    evaluation.learn({"script": np.array([3, 3, 4]), "label": np.array([2, 0, 0])})
    rows = [{"script": np.array([2, 3, 4, 9]), "label": np.array([1, 2, 0, 0])}]

    outcome = evaluation.score(rows, lambda batch: np.array([1, 1, 1, 1]), num_rows=4)

    # Of 2 the commonest is 1, of 3 it is 2, of 4 it is 0; of 9, which training never saw, it is that of all: 0.
    assert {score.name: score.values["accuracy"] for score in outcome.scores} == {
        "model": 0.25,
        "always 0, the commonest": 0.5,
        "the commonest of its script": 1.0,
    }


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Regression().learn({"label": np.zeros((3, 2))}), "one number a row"),
        (lambda: Regression("late").learn({"label": np.zeros(3), "x": np.zeros(3)}), "'late'.*x"),
        (lambda: Regression().score([], lambda batch: batch["x"], num_rows=0), "no validation rows"),
        (lambda: Classification(1), "at least 2 classes"),
        (lambda: Classification(2).learn({"label": np.array([2])}), r"outside \[0, 2\)"),
        (lambda: Classification(2, "x").learn({"label": np.array([1])}), "'x'"),
        (lambda: Classification(2, baseline="s").learn({"label": np.array([1])}), "evaluation.baseline is 's'"),
        (lambda: Classification(2, baseline="s").learn({"label": np.array([1]), "s": np.ones(1)}), "one code a row"),
        (lambda: Classification(2).score([], lambda batch: batch["x"], num_rows=0), "no validation rows"),
    ],
)
def test_what_cannot_be_measured_is_refused(call, message):
    with pytest.raises(SpecError, match=message) as caught:
        call()

    assert isinstance(caught.value, FileSetError)


@pytest.mark.parametrize(
    ("model", "baselines", "lower", "says"),
    [
        (1.0, [2.0, 3.0], True, "beats every baseline"),
        (2.5, [2.0, 3.0], True, "does NOT beat this in m: first"),
        (2.0, [2.0, 3.0], True, "does NOT beat this in m: first"),
        (4.0, [2.0, 3.0], True, "does NOT beat this in m: first; second"),
        (math.nan, [2.0, 3.0], True, "does NOT beat this in m: first; second"),
        (0.9, [0.5, 0.8], False, "beats every baseline"),
        (0.7, [0.5, 0.8], False, "does NOT beat this in m: second"),
    ],
)
def test_the_verdict_is_honest(model, baselines, lower, says):
    scores = [Score(name, {"m": m}) for name, m in zip(["model", "first", "second"], [model, *baselines], strict=True)]

    outcome = Outcome(scores, {}, lower, "", 1, lambda folder: [])

    assert says in outcome.verdict()
