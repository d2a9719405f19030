"""What a task of a user's own may give."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from rwkvclip_eval.errors import UserError
from rwkvclip_eval.records.metrics import TOP1
from rwkvclip_eval.run.given import check_result, check_texts
from rwkvclip_eval.tasks.base import MetricValue, Task, TaskResult


class Mine(Task):
    name = "mine"

    def score(self, samples, features, protocol):
        raise NotImplementedError


VALUE = MetricValue(metric=TOP1, value=0.5, n=4)
RESULT = TaskResult(metrics=[VALUE], predictions={"predictions": pa.table({"key": ["a"]})})


def test_numbers_of_numpy_and_tables_of_plain_names_may_be_given():
    check_result(Mine(), replace(RESULT, metrics=[replace(VALUE, value=np.float32(0.5), n=np.int64(4))]))
    check_texts(Mine(), ["a", "b"])
    check_texts(Mine(), ("",))


@pytest.mark.parametrize("texts", [None, [], "abc", [1], ["a", None], {"a": 1}, iter("ab")])
def test_texts_that_are_none_are_refused(texts):
    with pytest.raises(UserError, match="The task mine must give a sequence of texts"):
        check_texts(Mine(), texts)


@pytest.mark.parametrize("name", ["../../../escaped", "/escaped", "..", "", "a\0b", "a/b"])
def test_a_table_that_would_be_written_elsewhere_is_refused(name):
    with pytest.raises(UserError, match="is no table of predictions of the task mine: expected a plain name"):
        check_result(Mine(), replace(RESULT, predictions={name: pa.table({"key": ["a"]})}))


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (None, "must return a TaskResult"),
        (replace(RESULT, metrics=[]), "must return a TaskResult"),
        (replace(RESULT, metrics=[0.5]), "no MetricValue"),
        (replace(RESULT, metrics=[VALUE, VALUE]), "is there twice"),
        (replace(RESULT, metrics=[replace(VALUE, value=".5")]), "expected a number as value"),
        (replace(RESULT, metrics=[replace(VALUE, value=True)]), "expected a number as value"),
        (replace(RESULT, metrics=[replace(VALUE, n="4")]), "expected a number as n"),
        (replace(RESULT, metrics=[replace(VALUE, n=-1)]), "one sample or more, got n -1"),
        (replace(RESULT, metrics=[replace(VALUE, n=2**70)]), "one sample or more, got n 118059162071"),
        (
            replace(RESULT, metrics=[replace(VALUE, value=10**400)]),
            "expected a finite number, got a number of more",
        ),
        (replace(RESULT, metrics=[replace(VALUE, value=-np.inf)]), "expected a finite number, got -inf"),
        (replace(RESULT, metrics=[replace(VALUE, metric=replace(TOP1, title="\u200b"))]), "its title shows"),
        (replace(RESULT, predictions=[1]), "a mapping of tables"),
        (replace(RESULT, predictions={"a": {"key": ["a"]}}), "a pyarrow Table as a, got dict"),
    ],
)
def test_a_result_that_cannot_be_recorded_is_refused(result, said):
    with pytest.raises(UserError, match=said):
        check_result(Mine(), result)
