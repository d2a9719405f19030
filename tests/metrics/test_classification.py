import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from rwkvclip_eval.metrics import classification as metrics

LOGITS = np.array(
    [
        [3.9, 1.0, 3.1, 0.5],
        [1.0, 2.0, 2.0, 0.0],
        [0.1, 0.2, 0.3, 0.4],
        [5.0, 4.0, 3.0, 2.0],
    ],
    np.float32,
)
LABELS = np.array([2, 2, 3, 0])


@pytest.fixture
def golden(parity: Path) -> tuple[ModuleType, dict]:
    spec = importlib.util.spec_from_file_location("parity_inputs", parity / "inputs.py")
    inputs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(inputs)
    return inputs, json.loads((parity / "eval_golden.json").read_text())


def test_top_k_ranks_best_first_and_equal_logits_by_class_id():
    assert metrics.top_k(LOGITS, 3).tolist() == [[0, 2, 1], [1, 2, 0], [3, 2, 1], [0, 1, 2]]


def test_top_k_leaves_its_input_as_it_was():
    before = LOGITS.copy()
    metrics.top_k(LOGITS, 2)
    assert (before == LOGITS).all()


def test_accuracy_and_mean_per_class_accuracy_of_four_samples():
    hit = metrics.hits(metrics.top_k(LOGITS, 1), LABELS)
    assert hit.tolist() == [False, False, True, True]
    assert metrics.accuracy(hit) == 0.5
    # Class 0: 1/1, class 2: 0/2, class 3: 1/1; class 1 has no sample.
    assert metrics.mean_per_class_accuracy(hit, LABELS) == pytest.approx(2 / 3)
    assert metrics.accuracy(metrics.hits(metrics.top_k(LOGITS, 2), LABELS)) == 1.0


def test_truncation_is_toward_zero():
    assert metrics.truncate(np.array([[1.9, -1.9, 0.9, -0.9]])).tolist() == [[1, -1, 0, 0]]


def test_ties_bound_what_truncation_leaves_open():
    # Cut to integers: [3 1 3 0], [1 2 2 0], [0 0 0 0], [5 4 3 2].
    whole = metrics.truncate(LOGITS)
    ties = metrics.ties(whole, LABELS, 1)
    assert ties.tied.tolist() == [True, True, True, False]
    assert ties.best.tolist() == [True, True, True, True]
    assert ties.worst.tolist() == [False, False, False, True]
    hit = metrics.hits(metrics.truncated_top_k(LOGITS, 1), LABELS)
    assert (ties.worst <= hit).all() and (hit <= ties.best).all()
    assert not metrics.ties(whole, LABELS, 4).tied.any()
    assert metrics.ties(whole, LABELS, 4).worst.all()


def test_truncated_ranking_is_that_of_topk_on_an_int64_buffer():
    logits = np.random.default_rng(0).normal(22, 3, (200, 40)).astype(np.float32)
    buffer = torch.zeros(200, 40, dtype=torch.long)
    buffer[:] = torch.from_numpy(logits)
    for k in (1, 5):
        assert (metrics.truncated_top_k(logits, k) == buffer.topk(k, 1, True, True)[1].numpy()).all()


@pytest.mark.parametrize(
    ("batch_size", "rows", "true", "printed"), [(120, 880, 43.3, 44.3), (128, 176, 40.1, 40.3)]
)
def test_official_imagenet_padding_moves_the_accuracy_as_published(batch_size, rows, true, printed):
    assert metrics.num_padding_rows(50_000, 8, batch_size) == rows
    # The script allots whole batches per process for its share of the images.
    assert 8 * batch_size * -(-(50_000 // 8) // batch_size) == 50_000 + rows
    assert round(100 * metrics.padded_accuracy(true / 100, 50_000, rows, 1000), 1) == printed


def test_an_unfilled_row_of_1000_classes_counts_as_correct_for_every_k_the_scripts_use():
    unfilled = torch.zeros(1, 1000, dtype=torch.long)
    assert unfilled.topk(1).indices.item() == 0
    assert 0 in unfilled.topk(5).indices


def test_accuracies_agree_with_the_official_code_and_clip_benchmark(golden):
    inputs, expected = golden
    features, classifier, labels = inputs.classification()
    logits = 100 * features @ classifier
    float_hit = metrics.hits(metrics.top_k(logits, 1), labels)
    int_hit = metrics.hits(metrics.truncated_top_k(logits, 1), labels)
    top5 = metrics.accuracy(metrics.hits(metrics.top_k(logits, 5), labels))
    int_top5 = metrics.accuracy(metrics.hits(metrics.truncated_top_k(logits, 5), labels))
    cls, benchmark = expected["cls"], expected["clip_benchmark_cls"]
    assert metrics.accuracy(float_hit) == cls["accuracy_float"] == benchmark["acc1"]
    assert top5 == benchmark["acc5"]
    assert metrics.accuracy(int_hit) == cls["accuracy_int64buffer"]
    # The official code sums in float32.
    assert metrics.mean_per_class_accuracy(float_hit, labels) == pytest.approx(
        benchmark["mean_per_class_recall"], abs=1e-12
    )
    assert metrics.mean_per_class_accuracy(float_hit, labels) == pytest.approx(
        cls["mean_per_class_float"], abs=1e-6
    )
    assert metrics.mean_per_class_accuracy(int_hit, labels) == pytest.approx(
        cls["mean_per_class_int64buffer"], abs=1e-6
    )
    assert (metrics.accuracy(float_hit) + top5) / 2 == pytest.approx(cls["avg_acc1_acc5_float"], abs=1e-6)
    assert (metrics.accuracy(int_hit) + int_top5) / 2 == pytest.approx(
        cls["avg_acc1_acc5_int64buffer"], abs=1e-6
    )
    ties = metrics.ties(metrics.truncate(logits), labels, 1)
    assert ties.tied.sum() == cls["rows_with_tied_top1_int64"]
    assert metrics.accuracy(ties.worst) <= metrics.accuracy(int_hit) <= metrics.accuracy(ties.best)


def test_the_mean_of_top1_and_top5_is_1_a_half_or_0():
    # Six classes that score 5, 4, …, 0: the first is at rank 1, the fifth at rank 5, the sixth below.
    logits = np.tile(np.arange(5.0, -1.0, -1.0), (4, 1))
    found = metrics.mean_of_top1_and_top5(logits, np.array([0, 1, 4, 5]))
    assert found.tolist() == [1, 0.5, 0.5, 0]
    assert found.mean() == 0.5
    # Of three classes all are among the first five.
    assert metrics.mean_of_top1_and_top5(logits[:2, :3], np.array([0, 2])).tolist() == [1, 0.5]


def test_accuracies_do_not_depend_on_the_order_of_samples():
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(300, 12)).astype(np.float32)
    labels = generator.integers(0, 12, 300)
    order = generator.permutation(300)
    hit = metrics.hits(metrics.top_k(logits, 5), labels)
    moved = metrics.hits(metrics.top_k(logits[order], 5), labels[order])
    assert metrics.accuracy(hit) == metrics.accuracy(moved)
    assert metrics.mean_per_class_accuracy(hit, labels) == pytest.approx(
        metrics.mean_per_class_accuracy(moved, labels[order]), abs=1e-15
    )
