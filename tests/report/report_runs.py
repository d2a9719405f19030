"""Builds run directories as the runner writes them, for tests of reports."""

import base64
import hashlib
import io
import json
import math
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from rwkvclip_eval.records.reading import write_records
from rwkvclip_eval.records.schema import Record
from rwkvclip_eval.report.versions import FIRST_VERSIONS

ELEVEN = {
    # dataset: (test images, classes, metric)
    "food101": (25250, 101, "top1_accuracy"),
    "cifar10": (10000, 10, "top1_accuracy"),
    "cifar100": (10000, 100, "top1_accuracy"),
    "sun397": (19850, 397, "top1_accuracy"),
    "cars": (8041, 196, "top1_accuracy"),
    "aircraft": (3333, 100, "mean_per_class_accuracy"),
    "dtd": (1880, 47, "top1_accuracy"),
    "pets": (3669, 37, "mean_per_class_accuracy"),
    "caltech101": (6085, 102, "mean_per_class_accuracy"),
    "flowers": (6149, 102, "mean_per_class_accuracy"),
    "imagenet": (50000, 1000, "top1_accuracy"),
}


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def info(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "spec": f"{name}=model_31.pt",
        "family": "rwkv-clip" if "rwkv" in name else "open_clip",
        "checkpoint_sha256": digest("checkpoint", name),
        "fingerprint": digest("encoder", name),
        "embed_dim": 640,
        "probe_dim": 640,
        "image_size_px": [224, 224],
        "context_length": 77,
        "logit_scale": 100.0,
        "logit_bias": None,
        "precision": "fp32",
        "device": "cuda",
        "implementation": "torch" if "rwkv" in name else "sdpa",
        "num_parameters": 149_561_601 if "rwkv" in name else 151_277_313,
        "trained": True,
        "step": None,
        "step_unit": "",
    } | changes


def record(
    model: str = "rwkv-clip-b32",
    dataset: str = "cifar10",
    value: float | None = 0.5,
    n: int = 10000,
    metric: str = "top1_accuracy",
    task: str = "zero_shot_classification",
    protocol: str = "standard",
    half: float | None = None,
    model_info: dict[str, Any] | None = None,
    **changes: Any,
) -> Record:
    if value is not None and half is None:
        half = 1.96 * math.sqrt(max(value * (1 - value), 1e-6) / n)
    interval = (
        {"ci_low": max(0.0, value - half), "ci_high": min(1.0, value + half), "ci_method": "wilson"}
        if value is not None and half is not None and half > 0
        else {}
    )
    fields: dict[str, Any] = {
        "unit": f"{model}.{task}.{dataset}.{protocol}",
        "status": "ok",
        "model": model,
        "model_info": info(model, **(model_info or {})),
        "task": task,
        "task_version": FIRST_VERSIONS.get(task, 1),
        "dataset": dataset,
        "protocol": protocol,
        "metric": metric,
        "value": value,
        "n": n,
        "primary": True,
        "prompt_hash": digest("prompts", dataset, protocol),
        "dataset_fingerprint": digest("data", dataset),
        "dataset_source": f"webdataset wds_{dataset}/test",
        "verified": True,
        "seconds": 12.5,
        "created_utc": "2026-03-01T10:00:00+00:00",
        **interval,
    }
    return Record(**(fields | changes))


def without_number(status: str, reason: str, **changes: Any) -> Record:
    none = {"value": None, "n": None, "metric": "", "primary": False}
    return record(status=status, reason=reason, **(changes | none))


def write_run(path: Path, records: list[Record], **changes: Any) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    write_records(path / "results.jsonl", records)
    suite = "name: zero-shot-11\ntasks:\n  - task: zero_shot_classification\n    datasets: [cifar10]\n"
    content = {
        "command": "rwkvclip-eval run zero-shot-11 --model rwkv-clip-b32=model_31.pt --out run",
        "suite_name": "zero-shot-11",
        "suite_text": suite,
        "suite_sha256": hashlib.sha256(suite.encode()).hexdigest(),
        "models": sorted({r.model for r in records}),
        "identity": {"suite": "zero-shot-11"},
        "environment": {
            "rwkvclip_eval": "0.1.0",
            "python": "3.11.9",
            "packages": {"torch": "2.15.0", "numpy": "2.4.6"},
            "device": "NVIDIA H200",
            "clean_tree": True,
        },
        "started_utc": "2026-03-01T09:12:00+00:00",
        "duration_s": 2871.0,
        "num_commands": 1,
        "shard": "",
        "schema_version": 1,
    } | changes
    (path / "run.json").write_text(json.dumps(content), encoding="utf-8")
    return path


def picture(index: int, size: int = 112) -> str:
    """A small landscape whose colours and shapes follow from `index`."""
    hue = digest(index)
    r, g, b = (int(hue[i : i + 2], 16) for i in (0, 2, 4))
    image = Image.new("RGB", (size, size), (150 + r // 3, 190 + g // 5, 235))
    draw = ImageDraw.Draw(image)
    hill = size * (45 + g % 30) // 100
    draw.ellipse((-size // 2, hill, size, size * 2), fill=(60 + r // 4, 110 + g // 4, 60 + b // 4))
    draw.ellipse((size // 4, hill + 10, size * 2, size * 2), fill=(80 + g // 4, 130 + b // 5, 70 + r // 5))
    x = size * (15 + b % 60) // 100
    draw.ellipse((x, 12, x + 22, 34), fill=(250, 210, 90))
    draw.polygon([(x, size - 15), (x + 14, size - 50), (x + 28, size - 15)], fill=(r, 60 + g // 3, b))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return base64.b64encode(out.getvalue()).decode()


def write_examples(path: Path, unit: str, queries: list[str], shift: int = 0, images: int = 12) -> None:
    examples = [
        {
            "query": query,
            "target": i,
            "retrieved": [(i + (k + shift) * (1 + i % 3)) % images for k in range(5)],
            "scores": [round(0.34 - 0.021 * k, 4) for k in range(5)],
        }
        for i, query in enumerate(queries)
    ]
    (path / "examples").mkdir(parents=True, exist_ok=True)
    content = {"examples": examples, "thumbnails": {str(i): picture(i) for i in range(images)}}
    (path / "examples" / f"{unit}.json").write_text(json.dumps(content), encoding="utf-8")


def write_curve(path: Path, model: str, steps: int = 400, floor: float = 0.9) -> None:
    (path / "training").mkdir(parents=True, exist_ok=True)
    lines = []
    for step in range(0, steps, 4):
        noise = (int(digest(model, step)[:4], 16) / 65535 - 0.5) * 0.3
        line = {"step": step, "loss": floor + 4 * math.exp(-step / 90) + noise, "lr": 1e-3, "model": model}
        if step % 40 == 0:
            line |= {
                "val_loss": floor + 0.1 + 3.8 * math.exp(-step / 95),
                "val_metric": 1 - math.exp(-step / 120),
            }
        lines.append(json.dumps(line))
    (path / "training" / f"{model}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


CAPTIONS = [
    "A red tent on a green hill under a low sun",
    "Two hikers rest beside their tent in the early morning",
    "Sunrise over rolling meadows, seen from a camp site",
    "A small triangular shelter in front of a blue sky",
]


def full_run(path: Path) -> Path:
    """3 models (one untrained) × 11 datasets × 2 protocols, retrieval on two sets, gallery, a failure."""
    base = {"rwkv-clip-b32": 0.463, "alip-vit-b32": 0.418, "clip-vit-b32": 0.02}
    records = []
    for m, (model, level) in enumerate(base.items()):
        changes: dict[str, Any] = {} if m < 2 else {"trained": False, "spec": "clip-vit-b32=random:0"}
        for d, (dataset, (n, classes, metric)) in enumerate(ELEVEN.items()):
            for protocol in ("standard", "official-rwkv-clip"):
                spread = (int(digest(dataset)[:4], 16) / 65535 - 0.5) * 0.7
                value = (
                    1 / classes
                    if m == 2
                    else min(0.95, max(0.02, level + spread - 0.012 * (d % 3) * (-1) ** m))
                )
                value -= 0.021 if protocol != "standard" and m < 2 else 0
                common = {
                    "model_info": changes,
                    "protocol": protocol,
                    "n": n,
                    "dataset": dataset,
                    "model": model,
                }
                if (model, dataset, protocol) == ("alip-vit-b32", "cars", "standard"):
                    reason = "Expected wds_cars/test under the data root, found nothing there."
                    records.append(without_number("missing_data", reason, **common))
                    continue
                notes = {"chance": 1 / classes}
                records.append(record(value=value, metric=metric, notes=notes, **common))
                other = "top5_accuracy"
                records.append(record(value=min(1, value + 0.2), metric=other, primary=False, **common))
        for dataset, n, offset in (("flickr30k", 1000, 0.0), ("mscoco_captions", 5000, -0.2)):
            for side, less in (("text", 0.0), ("image", 0.14)):
                for k, more in ((1, 0.0), (5, 0.22), (10, 0.31)):
                    value = k / n if m == 2 else 0.63 - 0.05 * m + offset - less + more
                    records.append(
                        record(
                            model=model,
                            dataset=dataset,
                            value=value,
                            n=n if side == "text" else 5 * n,
                            half=1.96 * math.sqrt(value * (1 - value) / n),
                            metric=f"{side}_retrieval_recall@{k}",
                            task="zero_shot_retrieval",
                            primary=k == 1,
                            model_info=changes,
                            ci_method="image-cluster bootstrap",
                        )
                    )
                records.append(
                    record(
                        model=model,
                        dataset=dataset,
                        value=2.0 + m,
                        half=0,
                        n=n,
                        primary=False,
                        metric=f"{side}_retrieval_median_rank",
                        task="zero_shot_retrieval",
                        model_info=changes,
                    )
                )
        write_examples(path, f"{model}.zero_shot_retrieval.flickr30k.standard", CAPTIONS, shift=3 * m)
    write_run(path, records)
    return path


def series_run(path: Path, steps: tuple[int, ...] = (1, 2, 4, 8, 16), unit: str = "epoch") -> Path:
    """Checkpoints of two training runs, scored on two datasets."""
    records = []
    for family, top in (("nano-rwkv", 0.9), ("nano-clip", 0.82)):
        for step in steps:
            name = f"{family}-{unit}_{step}"
            changes = {"spec": f"{family}.json={unit}_{step}.pt", "step": step, "num_parameters": 1_234_567}
            changes["step_unit"] = unit if unit in ("step", "epoch") else ""
            for dataset, n in (("digits", 899), ("digits_noisy", 899)):
                value = (top - 0.1 * (dataset != "digits")) * (1 - math.exp(-step / 4))
                records.append(record(model=name, dataset=dataset, value=value, n=n, model_info=changes,
                                      notes={"chance": 0.1}))  # fmt: skip
    write_run(path, records, suite_name="quickstart")
    for family in ("nano-rwkv", "nano-clip"):
        write_curve(path, f"{family}-epoch_{steps[-1]}", floor=0.9 if "rwkv" in family else 1.2)
    return path
