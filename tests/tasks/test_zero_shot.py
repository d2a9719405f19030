import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest

from rwkvclip_eval.data.types import DatasetInfo
from rwkvclip_eval.errors import DamagedData, SuiteError
from rwkvclip_eval.metrics import classification
from rwkvclip_eval.metrics.classification import chance_levels
from rwkvclip_eval.protocols import CLIP_BENCHMARK, OFFICIAL, PROTOCOLS, STANDARD, Padding
from rwkvclip_eval.tasks import TASKS
from rwkvclip_eval.tasks.base import Features, Samples, Task
from rwkvclip_eval.tasks.similarity import class_embeddings

TASK = TASKS.get("zero_shot_classification")


def samples(labels, class_names=("cat", "dog"), templates=("a {c}", "the {c}"), name="pets", expected=None):
    info = DatasetInfo(
        name=name,
        kind="classification",
        num_samples=len(labels),
        fingerprint="f",
        class_names=tuple(class_names),
        templates=tuple(templates),
        expected_samples=expected,
    )
    return Samples(info=info, keys=[f"s{i}" for i in range(len(labels))], labels=np.array(labels))


def random_case(num_classes=9, n=150, name="pets", noise=0.25):
    """Images scattered around their class's direction, one template."""
    generator = np.random.default_rng(0)
    texts = generator.standard_normal((num_classes, 16)).astype(np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    labels = generator.integers(0, num_classes, n)
    images = texts[labels] + noise * generator.standard_normal((n, 16)).astype(np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    case = samples(labels, [f"class {i}" for i in range(num_classes)], ["a {c}"], name, expected=n)
    return case, Features(images={"embedding": images}, texts={"embedding": texts})


def values(result):
    return {m.name: m.value for m in result.metrics}


def test_registered_tasks_fulfil_the_contract():
    assert sorted(TASKS) == [
        "few_shot_linear_probe",
        "knn_probe",
        "linear_probe",
        "zero_shot_classification",
        "zero_shot_retrieval",
    ]
    for name in TASKS:
        assert isinstance(TASKS.get(name), Task)
        assert TASKS.get(name).name == name


def test_prompts_are_class_major_and_their_hash_sees_order():
    case = samples([0])
    assert TASK.texts(case, STANDARD) == ["a cat", "the cat", "a dog", "the dog"]
    other = samples([0], templates=("the {c}", "a {c}"))
    assert TASK.prompt_hash(case, STANDARD) != TASK.prompt_hash(other, STANDARD)
    assert TASK.prompt_hash(case, STANDARD) == TASK.prompt_hash(case, OFFICIAL)


def test_class_names_with_braces_are_taken_as_they_are():
    assert TASK.texts(samples([0], ("{c} {x}", "dog"), ("a {c}",)), STANDARD) == ["a {c} {x}", "a dog"]


def test_prompts_are_normalised_before_and_after_averaging():
    # The second prompt is ten times as long; both still weigh the same: mean of (1,0) and (0,1).
    classes = class_embeddings(np.array([[1, 0], [0, 10], [0, 3], [0, 1]], np.float32), 2)
    assert classes == pytest.approx(np.array([[0.5**0.5, 0.5**0.5], [0, 1]]), abs=1e-6)


def test_three_images_of_two_classes_give_accuracies_checked_by_eye():
    # Class axes are x and y; images point at x, at y, and 3/5 x + 4/5 y.
    case = samples([0, 1, 0], templates=("a {c}",))
    features = Features(
        images={"embedding": np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)},
        texts={"embedding": np.eye(2, dtype=np.float32)},
    )
    result = TASK.score(case, features, STANDARD)
    assert values(result) == pytest.approx({"top1_accuracy": 2 / 3, "mean_per_class_accuracy": 3 / 4})
    table = result.predictions["predictions"].to_pylist()
    assert [row["prediction"] for row in table] == [0, 1, 1]
    assert table[2]["key"] == "s2"
    assert table[2]["label"] == 0
    assert table[2]["top_ids"] == [1, 0]
    assert table[2]["top_logits"] == pytest.approx([80, 60], abs=1e-4)
    assert table[2]["label_logit"] == pytest.approx(60, abs=1e-4)
    assert table[2]["log_sum_exp"] == pytest.approx(80, abs=1e-4)
    top1 = result.metrics[0]
    assert (top1.n, top1.notes["chance"], top1.ci_conservative) == (3, 0.5, True)
    assert top1.ci_method.startswith("wilson")
    assert result.metrics[1].ci_method == "score over classes"
    assert result.notes["logit_scale"] == 100


def test_top5_is_given_from_five_classes_up():
    four, five = (random_case(num_classes=c) for c in (4, 5))
    assert "top5_accuracy" not in values(TASK.score(*four, STANDARD))
    assert values(TASK.score(*five, STANDARD))["top5_accuracy"] == 1


def test_classes_without_samples_are_left_out_of_the_mean_and_counted():
    case, features = random_case()
    keep = case.labels != 3
    case = samples(case.labels[keep], case.info.class_names, case.info.templates)
    features = dataclasses.replace(features, images={"embedding": features.image_embedding[keep]})
    metric = TASK.score(case, features, STANDARD).metrics[-1]
    assert (metric.notes["num_classes_present"], metric.notes["num_classes_absent"]) == (8, 1)
    assert metric.ci_low <= metric.value <= metric.ci_high


def test_the_official_protocol_truncates_and_bounds_its_ties():
    case, features = random_case(num_classes=60, n=400, noise=0.35)
    exact = TASK.score(case, features, STANDARD)
    official = TASK.score(case, features, OFFICIAL)
    logits = (np.float32(100) * features.image_embedding) @ features.text_embedding.T
    for metric, k in zip(official.metrics[:2], (1, 5), strict=True):
        hit = classification.hits(classification.truncated_top_k(logits, k), case.labels)
        assert metric.value == hit.mean()
        assert metric.notes["tied_rows"] > 0
    for metric in official.metrics:
        assert metric.notes["ties_worst"] <= metric.value <= metric.notes["ties_best"]
    assert "tied_rows" not in exact.metrics[0].notes
    assert official.notes["logits"] == "truncated"
    # The kept logits are those before the cut.
    kept = official.predictions["predictions"].column("label_logit")
    assert kept == exact.predictions["predictions"].column("label_logit")
    judged = official.predictions["predictions"].to_pandas()
    assert (judged["prediction"] == judged["label"]).mean() == official.metrics[0].value


def test_clip_benchmark_scores_as_standard_does():
    case = random_case()
    assert values(TASK.score(*case, CLIP_BENCHMARK)) == values(TASK.score(*case, STANDARD))


def test_padding_is_reported_beside_the_corrected_number_for_imagenet_only():
    case, features = random_case(num_classes=100, name="imagenet", n=150)
    official = {m.name: m for m in TASK.score(case, features, OFFICIAL).metrics}
    top1, padded = official["top1_accuracy"], official["top1_accuracy_padded"]
    assert padded.notes["padding_rows"] == 8 * 120 - 150
    assert padded.value == pytest.approx((top1.value * 150 + 810) / 960)
    assert padded.ci_low < padded.value < padded.ci_high
    assert padded.notes["chance"] == pytest.approx((150 / 100 + 810) / 960)
    assert padded.notes["ties_worst"] <= padded.value <= padded.notes["ties_best"]
    assert (padded.ci_method, padded.ci_conservative) == (top1.ci_method, top1.ci_conservative)
    assert "top1_accuracy_padded" not in values(TASK.score(case, features, STANDARD))
    assert "top1_accuracy_padded" not in values(TASK.score(*random_case(), OFFICIAL))


def test_padding_is_left_out_where_not_every_image_of_the_set_is_scored():
    # Of 150 images 810 unfilled rows would be most of the mean: a true 43 % would print as 90 %.
    case, features = random_case(num_classes=100, name="imagenet", n=150)
    for expected, words in ((50_000, "all 50000 images"), (151, "all 151 images"), (None, "all its images")):
        info = dataclasses.replace(case.info, expected_samples=expected)
        part = TASK.score(dataclasses.replace(case, info=info), features, OFFICIAL)
        assert "top1_accuracy_padded" not in values(part)
        assert part.notes["padding"] == f"left out: it belongs to {words}, 150 were scored"


@pytest.mark.parametrize("num_classes", [9, 100, 1000])
def test_padding_equals_scoring_with_the_unfilled_rows_in_place(num_classes):
    case, features = random_case(num_classes=num_classes, name="imagenet", n=150)
    alip = dataclasses.replace(
        OFFICIAL, padding=Padding(datasets=frozenset({"imagenet"}), world_size=8, batch_size=128)
    )
    padded = values(TASK.score(case, features, alip))["top1_accuracy_padded"]
    images = np.concatenate([features.image_embedding, np.zeros((1024 - 150, 16), np.float32)])
    labels = np.concatenate([case.labels, np.zeros(1024 - 150, int)])
    full = samples(labels, case.info.class_names, case.info.templates)
    filled = TASK.score(full, dataclasses.replace(features, images={"embedding": images}), OFFICIAL)
    assert padded == pytest.approx(values(filled)["top1_accuracy"], abs=1e-12)


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
def test_scores_repeat_and_do_not_depend_on_chunks(monkeypatch, protocol):
    case = random_case()
    first = TASK.score(*case, PROTOCOLS.get(protocol))
    again = TASK.score(*case, PROTOCOLS.get(protocol))
    assert first.metrics == again.metrics
    assert first.predictions["predictions"].equals(again.predictions["predictions"])
    monkeypatch.setattr("rwkvclip_eval.metrics.chunks.CHUNK_ELEMENTS", 100)
    chunked = TASK.score(*case, PROTOCOLS.get(protocol))
    assert values(chunked) == values(first)


def test_predictions_have_the_documented_columns():
    table = TASK.score(*random_case(), STANDARD).predictions["predictions"]
    assert table.schema.names == [
        "key",
        "label",
        "prediction",
        "top_ids",
        "top_logits",
        "label_logit",
        "log_sum_exp",
    ]
    assert table.schema.field("top_ids").type == pa.list_(pa.int64(), 5)
    frame = table.to_pandas()
    log_probability = frame["label_logit"] - frame["log_sum_exp"]
    assert (log_probability <= 1e-5).all()


def test_chance_is_that_of_a_random_order_and_of_one_answer_for_all():
    # Six images of four classes: 3, 2, 1, 0 of them.
    levels = chance_levels(np.array([0, 0, 0, 1, 1, 2]), 4)
    assert levels["top1_accuracy"] == {"chance": 1 / 4, "majority": 3 / 6}
    assert levels["mean_per_class_accuracy"] == {"chance": 1 / 4, "majority": 1 / 3}
    assert levels["top5_accuracy"] == {"chance": 1, "majority": 1}
    assert levels["mean_top1_top5_accuracy"] == {"chance": 5 / 8, "majority": 3 / 4}
    ten = chance_levels(np.repeat(np.arange(10), np.arange(1, 11)), 10)["top5_accuracy"]
    assert ten == {"chance": 1 / 2, "majority": pytest.approx((10 + 9 + 8 + 7 + 6) / 55)}


def test_every_accuracy_carries_its_chance():
    for metric in TASK.score(*random_case(), OFFICIAL).metrics:
        assert 0 < metric.notes["chance"] <= metric.notes["majority"] <= 1


def test_bad_prompts_and_labels_are_named():
    with pytest.raises(SuiteError, match=r"has no \{c\}"):
        TASK.texts(samples([0], templates=("a photo of a {}.",)), STANDARD)
    with pytest.raises(SuiteError, match="needs class names and templates"):
        TASK.texts(samples([0], (), ()), STANDARD)
    case, features = random_case()
    case.labels[7] = 9
    with pytest.raises(DamagedData, match=r"'s7' has label 9, expected 0 to 8"):
        TASK.score(case, features, STANDARD)


def test_a_nan_embedding_gives_no_number():
    case, features = random_case()
    features.image_embedding[4, 2] = np.nan
    with pytest.raises(ValueError, match="images must be finite; row 4"):
        TASK.score(case, features, STANDARD)


@pytest.mark.parametrize(("scale", "bias"), [(100.0, 0.0), (14.3, 0.0), (117.0, -12.9)])
def test_predictions_keep_the_log_sum_exp_at_the_models_own_scale_and_bias(scale, bias):
    case, features = random_case()
    features = dataclasses.replace(features, logit_scale=scale, logit_bias=bias)
    table = TASK.score(case, features, STANDARD).predictions["predictions"]
    logits = scale * (features.image_embedding @ features.text_embedding.T).astype(np.float64) + bias
    expected = np.log(np.exp(logits - 50).sum(axis=1)) + 50
    assert np.allclose(table["model_log_sum_exp"], expected, atol=1e-4)


def test_the_models_own_scale_changes_no_number_and_no_other_column():
    case, features = random_case()
    plain = TASK.score(case, features, STANDARD)
    own = TASK.score(case, dataclasses.replace(features, logit_scale=20.0), STANDARD)
    assert plain.metrics == own.metrics
    assert plain.predictions["predictions"] == own.predictions["predictions"].drop_columns(
        ["model_log_sum_exp"]
    )


def test_truncated_logits_have_no_confidence_of_the_model():
    case, features = random_case()
    features = dataclasses.replace(features, logit_scale=20.0)
    assert (
        "model_log_sum_exp"
        not in TASK.score(case, features, OFFICIAL).predictions["predictions"].column_names
    )


def test_predictions_name_the_classes_of_their_ids():
    case, features = random_case()
    table = TASK.score(case, features, STANDARD).predictions["predictions"]
    assert json.loads(table.schema.metadata[b"class_names"]) == list(case.info.class_names)


@pytest.mark.parametrize("scale", [None, 5.0])
def test_the_errors_shown_are_those_of_the_largest_probability(scale):
    case, features = random_case(noise=0.6)
    result = TASK.score(case, dataclasses.replace(features, logit_scale=scale), STANDARD)
    logits = (scale or 100) * (features.image_embedding @ features.text_embedding.T).astype(np.float64)
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    wrong = np.flatnonzero(probability.argmax(axis=1) != case.labels)
    order = wrong[np.argsort(-probability.max(axis=1)[wrong])][:4]
    assert [e.image for e in result.errors] == order.tolist()
    for error in result.errors:
        assert error.label == case.info.class_names[case.labels[error.image]]
        assert error.prediction == case.info.class_names[probability[error.image].argmax()]
        assert error.confidence == pytest.approx(probability[error.image].max(), rel=1e-3)
