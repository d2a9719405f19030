"""Whole tasks against CLIP_benchmark's own code: the same model, shards and threads, float32, batches of 64.

RWKVCLIP_BENCH_CLASSES sets how many of ImageNet's 1,000 classes the classifier is built for (50 by default;
all of them take CLIP_benchmark about an hour on two cores).
"""

import os
import sys

import clip_benchmark_code as code
import numpy as np
import pytest
import torch
from clip_benchmark.metrics import linear_probe, zeroshot_classification, zeroshot_retrieval
from toy import engine

import rwkvclip_eval as rc
from rwkvclip_eval.data.prompts import shipped
from rwkvclip_eval.features.store import FeatureStore
from rwkvclip_eval.plan.suite import parse_suite
from rwkvclip_eval.tasks import TASKS
from rwkvclip_eval.tasks.similarity import class_embeddings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * 3600)]

NUM_CLASSES = int(os.environ.get("RWKVCLIP_BENCH_CLASSES", "50"))
ROUNDS = 2
IMAGES = {"cifar10": 2000, "mnist": 1000, "tiny_imagenet": 500}
SHARED_IMAGES = {"train": 1000, "test": 1000}
PROBES = ("knn_probe", "linear_probe")

ONE_TASK = """\
name: one-task
tasks:
  - task: {task}
    protocol: clip-benchmark
    datasets: [{dataset}]
"""
SHARED_TASKS = """\
name: shared-images
tasks:
  - task: zero_shot_classification
    protocol: [standard, clip-benchmark]
    datasets: [cifar10]
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return code.load_vit_b_32(tmp_path_factory.mktemp("vit-b-32"))


def evaluate(model, suite, data_root):
    results = rc.evaluate(
        model.encoder,
        parse_suite(suite),
        data_root=data_root,
        batch_size=code.BATCH_SIZE,
        num_workers=code.NUM_WORKERS,
    )
    failed = [record.reason for record in results.records if record.status != "ok"]
    assert not failed, failed
    return results


def zero_shot(model, data_root, dataset="cifar10"):
    """Its zero-shot classification of `dataset`, from shards to metrics."""
    batches = code.loader(dataset, "test", data_root, model)
    with code.computable_accuracy():
        return zeroshot_classification.evaluate(
            model.module,
            batches,
            model.tokenizer,
            batches.dataset.classes,
            batches.dataset.templates,
            "cpu",
            amp=False,
        )


def check_zero_shot(results, theirs, num_images, protocol="clip-benchmark"):
    values = {r.metric: r.value for r in results.records if r.protocol == protocol}
    # An image between two classes of equal logits, to rounding, may fall either way.
    slack = 1 / num_images + 1e-9
    assert abs(values["top1_accuracy"] - theirs["acc1"]) <= slack
    assert abs(values["top5_accuracy"] - theirs["acc5"]) <= slack


def say(benchmark, capsys, what, seconds):
    """Record and print both sides' times; return the median of ours over theirs."""
    ratio = float(np.median(seconds[:, 0] / seconds[:, 1]))
    ours, theirs = np.median(seconds, axis=0)
    threads = torch.get_num_threads()
    benchmark.extra_info.update(ratio=ratio, ours_s=ours, theirs_s=theirs, threads=threads)
    with capsys.disabled():
        sys.stdout.write(
            f"\n{what}: ours {ours:.1f} s, CLIP_benchmark {theirs:.1f} s, ratio {ratio:.3f} "
            f"(1/{1 / ratio:.2f}; {len(seconds)} in turns, {threads} threads, "
            f"{code.NUM_WORKERS} loading process)\n"
        )
    return ratio


def test_the_imagenet_classifier_takes_at_most_a_third_of_the_time(model, tmp_path, benchmark, capsys):
    classes, templates = (
        list(shipped("labels", "imagenet"))[:NUM_CLASSES],
        list(shipped("templates", "imagenet")),
    )
    prompts = [template.replace("{c}", name) for name in classes for template in templates]
    stores = iter(range(ROUNDS + 1))

    def ours():
        store = FeatureStore(tmp_path / str(next(stores)))
        texts = store.texts(model.encoder, prompts, engine(batch_size=code.BATCH_SIZE))["embedding"]
        return class_embeddings(texts, len(classes))

    def theirs(count=NUM_CLASSES):
        return zeroshot_classification.zero_shot_classifier(
            model.module, model.tokenizer, classes[:count], templates, "cpu", amp=False
        ).T.numpy()

    theirs(count=1)  # warms up
    seconds, found, expected = benchmark.pedantic(
        code.in_turns, args=(ours, theirs, 1 if NUM_CLASSES > 100 else ROUNDS), rounds=1
    )
    difference = np.abs(found - expected).max()
    what = f"ImageNet classifier, {len(classes)} classes × {len(templates)} prompts, max |Δ| {difference:.1e}"
    ratio = say(benchmark, capsys, what, seconds)
    assert difference <= 1e-6
    assert ratio <= 1 / 3


@pytest.mark.data
@pytest.mark.parametrize("dataset", IMAGES)
def test_zero_shot_classification_is_no_slower(dataset, shared_data, model, tmp_path, benchmark, capsys):
    num_images = IMAGES[dataset]
    code.copy_first_samples(shared_data / f"wds_{dataset}", tmp_path / f"wds_{dataset}", {"test": num_images})
    suite = ONE_TASK.format(task="zero_shot_classification", dataset=dataset)
    seconds, results, theirs = benchmark.pedantic(
        code.in_turns,
        args=(
            lambda: evaluate(model, suite, tmp_path),
            lambda: zero_shot(model, tmp_path, dataset),
            ROUNDS,
        ),
        rounds=1,
    )
    check_zero_shot(results, theirs, num_images)
    assert say(benchmark, capsys, f"zero-shot, {num_images} images of {dataset}", seconds) <= 1


@pytest.mark.data
def test_retrieval_is_no_slower(shared_data, model, benchmark, capsys):
    suite = ONE_TASK.format(task="zero_shot_retrieval", dataset="flickr8k")

    def theirs():
        batches = code.loader("flickr8k", "test", shared_data, model)
        return zeroshot_retrieval.evaluate(
            model.module, batches, model.tokenizer, "cpu", amp=False, recall_k_list=[1, 5, 10]
        )

    seconds, results, expected = benchmark.pedantic(
        code.in_turns, args=(lambda: evaluate(model, suite, shared_data), theirs, ROUNDS), rounds=1
    )
    values = {r.metric: r.value for r in results.records}
    assert len(expected) == 6
    for metric, value in expected.items():
        assert values[metric] == pytest.approx(value, abs=1e-6), metric
    assert say(benchmark, capsys, "retrieval, 1,000 images of flickr8k", seconds) <= 1


@pytest.mark.data
def test_a_suite_whose_tasks_share_images_takes_at_most_half_the_time(
    shared_data, model, tmp_path, benchmark, capsys
):
    """It runs once per task. A probe there costs the features of both splits alone: it fits on CUDA only."""
    code.copy_first_samples(shared_data / "wds_cifar10", tmp_path / "wds_cifar10", SHARED_IMAGES)
    probes = [name for name in PROBES if name in TASKS]
    suite = SHARED_TASKS + "".join(f"  - task: {name}\n    datasets: [cifar10]\n" for name in probes)

    def theirs():
        metrics = [zero_shot(model, tmp_path) for _ in ("standard", "clip-benchmark")]
        for _ in probes:
            featurizer = linear_probe.Featurizer(model.module)
            with torch.no_grad():
                for split in SHARED_IMAGES:
                    for images, _ in code.loader("cifar10", split, tmp_path, model):
                        featurizer(images)
        return metrics

    seconds, results, expected = benchmark.pedantic(
        code.in_turns, args=(lambda: evaluate(model, suite, tmp_path), theirs, ROUNDS), rounds=1
    )
    for protocol, metrics in zip(("standard", "clip-benchmark"), expected, strict=True):
        check_zero_shot(results, metrics, SHARED_IMAGES["test"], protocol)
    assert {r.task for r in results.records} == {"zero_shot_classification", *probes}
    what = " + ".join(["two zero-shot protocols", *probes]) + f", {SHARED_IMAGES} images of cifar10"
    assert say(benchmark, capsys, what, seconds) <= 1 / 2
