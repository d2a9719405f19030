"""Builds run directories with predictions as the runner writes them, for tests of comparisons."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rwkvclip_eval.metrics import classification, ranking
from rwkvclip_eval.metrics import retrieval as retrieval_metrics
from rwkvclip_eval.records.metrics import (
    MAP_11_POINT,
    MEAN_PER_CLASS,
    MEAN_TOP1_TOP5,
    ROC_AUC,
    TOP1,
    TOP5,
    median_rank,
    recall,
)
from rwkvclip_eval.records.reading import write_records
from rwkvclip_eval.records.schema import Record, folder_name

NUM = 400
LABELS = np.random.default_rng(0).integers(0, 6, NUM)


class Run:
    """A run directory under way; `change` of a unit are fields of its records."""

    def __init__(self, path, model="nano"):
        self.path, self.model, self.records = path, model, []
        path.mkdir(parents=True, exist_ok=True)

    def write(self):
        write_records(self.path / "results.jsonl", self.records)
        return self.path

    def unit(self, task, dataset, values, tables, primary, **change):
        unit = folder_name(self.model, task, dataset)
        for metric, value in values.items():
            asked = {"image→text": "image_to_text", "text→image": "text_to_image"}.get(metric.direction)
            table = None if metric.shots else tables.get(asked or "predictions")
            n = NUM if table is None else table.num_rows
            fields = {
                "unit": unit, "status": "ok", "model": self.model, "task": task, "task_version": 2,
                "model_info": {"name": self.model, "spec": self.model, "fingerprint": "f"},
                "dataset": dataset, "protocol": "standard", "metric": metric.name, "metric_info": metric,
                "value": float(value), "n": n, "primary": metric == primary, "prompt_hash": "p",
                "dataset_fingerprint": dataset,
            }  # fmt: skip
            self.records.append(Record(**(fields | change)))
        folder = self.path / "predictions" / unit
        folder.mkdir(parents=True)
        for name, table in tables.items():
            pq.write_table(table, folder / f"{name}.parquet", compression="zstd")
        return folder

    def zero_shot(
        self, dataset="colours", seed=0, flip=0.0, labels=LABELS, order=None, primary=TOP1, names=(), **change
    ):
        """Six classes; a share `flip` of the hits are missed beside a run of the same seed."""
        generator = np.random.default_rng(seed)
        num = len(labels)
        top = np.argsort(generator.random((num, 6)), axis=1)[:, :5]
        right = generator.random(num) < 0.7
        top[right, 0] = labels[right]
        missed = right & (np.random.default_rng(99).random(num) < flip)
        top[missed, 0] = (labels[missed] + 1) % 6
        hit, five = top[:, 0] == labels, classification.hits(top, labels)
        order = np.arange(num) if order is None else order
        table = pa.table(
            {
                "key": [f"{dataset}/{i:06d}" for i in order],
                "content_id": [f"id{i:06d}" for i in order],
                "label": labels[order],
                "prediction": top[order, 0],
                "top_ids": pa.FixedSizeListArray.from_arrays(pa.array(top[order].ravel()), 5),
                "top_logits": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(5 * num, np.float32)), 5),
                "label_logit": np.zeros(num),
                "log_sum_exp": np.zeros(num),
            }
        )
        if names:
            table = table.replace_schema_metadata({"class_names": json.dumps(names)})
        values = {
            TOP1: hit.mean(),
            TOP5: five.mean(),
            MEAN_PER_CLASS: classification.mean_per_class_accuracy(hit, labels),
            MEAN_TOP1_TOP5: (hit + five.astype(float)).mean() / 2,
        }
        return self.unit(
            "zero_shot_classification", dataset, values, {"predictions": table}, primary, **change
        )

    def retrieval(self, dataset="scenes", seed=0, worse=0, **change):
        generator = np.random.default_rng(seed)
        images = 1 + generator.poisson(2, 80) + worse * (generator.random(80) < 0.5)
        owner = np.repeat(np.arange(80), 3)
        texts = 1 + generator.poisson(2, 240) + worse * (generator.random(240) < 0.5)
        keys = [f"{i:03d}" for i in range(80)]
        ids = [f"id{i:03d}" for i in range(80)]
        tables = {
            "image_to_text": pa.table({"key": keys, "content_id": ids, "rank": images}),
            "text_to_image": pa.table(
                {
                    "key": [keys[i] for i in owner],
                    "content_id": [ids[i] for i in owner],
                    "caption_index": np.tile(np.arange(3), 80),
                    "caption_id": [f"text{i}" for i in range(240)],
                    "rank": texts,
                }
            ),
        }
        values = {}
        for retrieved, ranks in (("image", texts), ("text", images)):
            values |= {recall(retrieved, k): retrieval_metrics.recall_at_k(ranks, k) for k in (1, 5)}
            values[median_rank(retrieved)] = retrieval_metrics.median_rank(ranks)
        return self.unit("zero_shot_retrieval", dataset, values, tables, recall("image", 1), **change)

    def few_shot(self, metric=TOP1, seeds=(1, 2, 3), worse=0.0, dataset="memes", **change):
        labels = LABELS % 2
        generator = np.random.default_rng(7)
        easy, rows, scores = generator.random(NUM), [], {}
        for shots in (4, 16):
            scores[shots] = []
            for seed in seeds:
                own = np.random.default_rng([seed, shots])
                logit = (labels - 0.5) * 2 + own.standard_normal(NUM) + easy - 0.5 - worse * (labels - 0.5)
                prediction = (logit > 0).astype(int)
                rows.append(
                    pa.table(
                        {
                            "key": [f"{i:06d}" for i in range(NUM)],
                            "content_id": [f"id{i:06d}" for i in range(NUM)],
                            "label": labels,
                            "shots": np.full(NUM, shots),
                            "seed": np.full(NUM, seed),
                            "prediction": prediction,
                            "hit_5": np.ones(NUM, bool),
                            "score": logit,
                        }
                    )
                )
                scores[shots].append(
                    {
                        TOP1: (prediction == labels).mean(),
                        MEAN_PER_CLASS: classification.mean_per_class_accuracy(prediction == labels, labels),
                        MEAN_TOP1_TOP5: ((prediction == labels) + 1.0).mean() / 2,
                        ROC_AUC: ranking.roc_auc(logit, labels == 1).value,
                    }[metric]
                )
        values = {metric.of_shots(shots): np.mean(scores[shots]) for shots in (16, 4)}
        tables = {"predictions": pa.concat_tables(rows)}
        return self.unit("few_shot_linear_probe", dataset, values, tables, metric.of_shots(16), **change)

    def binary(self, noise=0.0, **change):
        labels = LABELS % 2
        generator = np.random.default_rng(3)
        logit = labels * 1.5 + generator.standard_normal(NUM)
        logit = (logit + noise * np.random.default_rng(4).standard_normal(NUM)).astype(np.float32)
        ids = np.where(logit[:, None] > 0, [1, 0], [0, 1])
        logits = np.stack([np.abs(logit), np.zeros(NUM, np.float32)], axis=1)
        table = pa.table(
            {
                "key": [f"{i:06d}" for i in range(NUM)],
                "content_id": [f"id{i:06d}" for i in range(NUM)],
                "label": labels,
                "prediction": ids[:, 0],
                "top_ids": pa.FixedSizeListArray.from_arrays(pa.array(ids.ravel()), 2),
                "top_logits": pa.FixedSizeListArray.from_arrays(pa.array(logits.ravel()), 2),
            }
        )
        values = {
            TOP1: (ids[:, 0] == labels).mean(),
            ROC_AUC: ranking.roc_auc(logit.astype(np.float64), labels == 1).value,
        }
        return self.unit("linear_probe", "memes", values, {"predictions": table}, ROC_AUC, **change)

    def multilabel(self, noise=0.0, num=120, **change):
        generator = np.random.default_rng(3)
        labels = (generator.random((num, 5)) < 0.3).astype(np.int8)
        labels[generator.random((num, 5)) < 0.05] = -1
        scores = (labels == 1) + generator.standard_normal((num, 5))
        scores = scores + noise * np.random.default_rng(4).standard_normal((num, 5))
        each = []
        for k in range(5):
            known = labels[:, k] >= 0
            curve = ranking.precision_recall(scores[known, k], labels[known, k] == 1)
            each.append(ranking.eleven_point_average_precision(curve)[0])
        table = pa.table(
            {
                "key": [f"{i:06d}" for i in range(num)],
                "content_id": [f"id{i:06d}" for i in range(num)],
                "labels": pa.FixedSizeListArray.from_arrays(pa.array(labels.ravel()), 5),
                "scores": pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), 5),
            }
        )
        values = {MAP_11_POINT: np.mean(each)}
        return self.unit("linear_probe", "voc2007", values, {"predictions": table}, MAP_11_POINT, **change)


def pair(tmp_path, add, **candidate):
    """Two runs of which the candidate is made with other arguments."""
    runs = []
    for name, arguments in (("baseline", {}), ("candidate", candidate)):
        run = Run(tmp_path / name)
        getattr(run, add)(**arguments)
        runs.append(run.write())
    return runs


def everything(run):
    """Add a unit of every kind."""
    for add in (run.zero_shot, run.retrieval, run.few_shot, run.binary, run.multilabel):
        add()
