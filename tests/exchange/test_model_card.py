"""A model card is read back with the hub's own classes, and what must not be offered is not in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from report_runs import digest, record, without_number, write_run

from rwkvclip_eval.exchange.clip_benchmark import read_results
from rwkvclip_eval.exchange.model_card import BEGIN, END, write_model_cards
from rwkvclip_eval.exchange.upload import merged
from rwkvclip_eval.report.loading import load_runs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rwkvclip_eval.records.schema import Record

    Run = Callable[..., tuple[int, str, str]]

MODEL = "rwkv-clip-b32"
ENVIRONMENT = {"packages": {"rwkvclip-eval": "0.1.0"}}


def run_of(path: Path, *records: Record) -> Path:
    return write_run(path, list(records), environment=ENVIRONMENT)


def card_folder(run: Path, out: Path, model: str = MODEL) -> Path:
    return write_model_cards(load_runs([run]), out, [model])[model]


def several(path: Path) -> Path:
    retrieval: dict[str, Any] = {"task": "zero_shot_retrieval", "dataset": "flickr30k", "n": 1000}
    retrieval["ci_method"] = "image-cluster bootstrap"
    return run_of(
        path,
        record(value=0.66842, n=10_000),
        record(value=0.61, protocol="official-rwkv-clip", notes={"differences": "Rows are padded."}),
        record(value=0.981, metric="top5_accuracy", primary=False),
        record(value=0.7, metric="text_retrieval_recall@1", **retrieval),
        record(value=0.5, metric="image_retrieval_recall@1", **retrieval),
        record(value=2.0, metric="text_retrieval_median_rank", half=0, primary=False, **retrieval),
        record(value=0.4, dataset="my_birds", n=50),
    )


def test_the_hubs_own_classes_read_every_number_back(tmp_path: Path) -> None:
    run = several(tmp_path / "run")
    folder = card_folder(run, tmp_path / "cards")
    card = ModelCard.load(folder / "README.md")
    data: Any = card.data
    assert data.model_name == MODEL
    found = {(r.dataset_name, r.metric_type, r.metric_args["protocol"]): r for r in data.eval_results}
    assert len(found) == 7
    one = found["CIFAR-10", "top1_accuracy", "standard"]
    assert one.metric_value == 66.84
    # 1.96 · √(p (1 − p) / n), by hand: ± 0.92.
    assert (one.metric_args["ci_low"], one.metric_args["ci_high"]) == (65.92, 67.76)
    assert one.dataset_split == "test" and one.dataset_type == "clip-benchmark/wds_vtab-cifar10"
    prompts = digest("prompts", "cifar10", "standard")
    assert one.metric_args["prompt_hash"] == prompts
    assert one.metric_args["suite_version"] == "rwkvclip-eval 0.1.0"
    for told in (
        "95 % interval 65.92 to 67.76 (wilson)", "n = 10,000", "split test", "protocol standard",
        f"prompts {prompts[:12]}", "rwkvclip-eval 0.1.0, task version 2", "top-1, %",
    ):  # fmt: skip
        assert told in one.metric_name
    assert found["CIFAR-10", "top1_accuracy", "official-rwkv-clip"].metric_value == 61
    rank = found["Flickr30k (Karpathy split)", "text_retrieval_median_rank", "standard"]
    assert rank.metric_value == 2 and "no interval" in rank.metric_name
    assert found["my_birds", "top1_accuracy", "standard"].dataset_type == "my_birds"


def test_the_text_says_each_number_with_its_interval_and_what_differs(tmp_path: Path) -> None:
    text = ModelCard.load(card_folder(several(tmp_path / "run"), tmp_path / "cards") / "README.md").text
    (row,) = (line for line in text.splitlines() if "66.84" in line)
    for cell in ("CIFAR-10", "test", "95 % interval 65.92 to 67.76 (wilson)", "10,000", "standard"):
        assert f" {cell} " in row
    assert "40.00" in text
    assert "cifar10, official-rwkv-clip: Rows are padded." in text
    assert text.index(BEGIN) < text.index("66.84") < text.index(END)


def test_eval_results_hold_the_primary_numbers_of_sets_that_the_hub_has(tmp_path: Path) -> None:
    folder = card_folder(several(tmp_path / "run"), tmp_path / "cards") / ".eval_results"
    files = {p.name: parse_eval_result_entries(yaml.safe_load(p.read_text())) for p in folder.iterdir()}
    entries = {(e.dataset_id, e.task_id): e for file in files.values() for e in file}
    assert len(files) == 3 and sum(map(len, files.values())) == 4
    one = entries["clip-benchmark/wds_flickr30k", "zero_shot_retrieval.text_retrieval_recall@1"]
    assert one.value == 70
    assert one.date == "2026-03-01T10:00:00+00:00"
    assert one.notes is not None
    assert "95 % interval 67.16 to 72.84 (image-cluster bootstrap)" in one.notes
    # The two protocols of one set are files of their own.
    name = "clip-benchmark/wds_vtab-cifar10"
    assert sum(e.dataset_id == name for file in files.values() for e in file) == 2
    assert all(len({e.dataset_id for e in file}) == 1 for file in files.values())


def test_a_card_made_anew_leaves_nothing_of_an_earlier_one(tmp_path: Path) -> None:
    for name, dataset in (("a", "cifar10"), ("b", "food101")):
        folder = card_folder(run_of(tmp_path / name, record(dataset=dataset)), tmp_path / "cards")
        (file,) = (folder / ".eval_results").iterdir()
        assert file.name.startswith(dataset)


def test_no_subset_failure_or_number_of_others_is_offered(tmp_path: Path) -> None:
    import json

    theirs = tmp_path / "theirs.json"
    theirs.write_text(
        json.dumps(
            {
                "dataset": "cars",
                "model": MODEL,
                "task": "zeroshot_classification",
                "metrics": {"acc1": 0.123},
                "evaluated_by": "x",
            }
        )
    )
    (imported,) = read_results([theirs]).records
    run = run_of(
        tmp_path / "run",
        record(value=0.66842),
        record(value=0.77, dataset="food101", subset=True),
        without_number("missing_data", "nothing there", dataset="pets"),
        imported,
    )
    folder = card_folder(run, tmp_path / "cards")
    data: Any = ModelCard.load(folder / "README.md").data
    assert [r.metric_value for r in data.eval_results] == [66.84]
    assert len(list((folder / ".eval_results").iterdir())) == 1
    text = (folder / "README.md").read_text()
    assert "- food101: a subset" in text and "- pets: no data" in text
    assert "77.00" not in text and "12.3" not in text
    with pytest.raises(ValueError, match="no result that a card can offer: cars: read from another"):
        write_model_cards(load_runs([run]), tmp_path / "cards", [imported.model])


def test_what_no_card_can_be_made_of_is_one_message(tmp_path: Path, run: Run) -> None:
    folder = run_of(
        tmp_path / "run",
        record(),
        record("clip-vit-b32", model_info={"trained": False}),
        record("alip-vit-b32", subset=True),
    )
    for options, told in (
        (("--model", "rwkv-clip-b23"), "Unknown model of these runs 'rwkv-clip-b23'. Did you mean"),
        (("--model-card", "--model", "clip-vit-b32"), "has random weights"),
        (("--model", "alip-vit-b32"), "alip-vit-b32 has no result that a card can offer: cifar10: a subset"),
        (("--push-to-hub", "me/model"), "takes the card of one model; these runs have 3"),
    ):
        code, _, err = run("report", folder, *options)
        assert code == 2 and told in err, options
        assert not (folder / "report" / "model_card").exists()


def test_report_writes_the_card_of_each_model(tmp_path: Path, run: Run) -> None:
    folder = run_of(tmp_path / "run", record(), record("alip-vit-b32", value=0.4))
    code, out, _ = run("report", folder, "--model-card")
    assert code == 0
    for model in (MODEL, "alip-vit-b32"):
        path = folder / "report" / "model_card" / model / "README.md"
        assert f"Model card of {model}: {path}" in out
        assert ModelCard.load(path).data.to_dict()["model-index"][0]["name"] == model


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    name = f"<script>|x\n---\n{END}"
    run = run_of(tmp_path / "run", record(name, unit="one", dataset="a|b\n---\n", protocol="p`*_"))
    (folder,) = write_model_cards(load_runs([run]), tmp_path / "cards").values()
    card = ModelCard.load(folder / "README.md")
    data: Any = card.data
    (result,) = data.eval_results
    assert result.metric_value == 50 and result.dataset_name == "a|b --- "
    assert "<script>" not in card.text and card.text.count(END) == 1
    assert folder.parent == tmp_path / "cards"


BY_HAND = """\
---
license: mit
tags: [birds]
model-index:
- name: mine
  results:
  - task: {type: other}
    dataset: {type: x, name: x}
    metrics: [{type: wer, value: 1.5}]
---

# Mine

Made with care.
"""


def test_an_upload_keeps_what_the_readme_says_beside_ours(tmp_path: Path) -> None:
    def card(name: str, value: float) -> ModelCard:
        return ModelCard.load(
            card_folder(run_of(tmp_path / name, record(value=value)), tmp_path) / "README.md"
        )

    once = str(merged(ModelCard(BY_HAND), card("a", 0.3)))
    twice = ModelCard(str(merged(ModelCard(once), card("b", 0.6))))
    data: Any = twice.data
    assert data.license == "mit" and data.tags == ["birds", "clip", "rwkvclip-eval"]
    assert data.model_name == "mine"
    found = [(r.metric_type, r.metric_value) for r in data.eval_results]
    assert found == [("wer", 1.5), ("top1_accuracy", 60)]
    assert "# Mine\n\nMade with care." in twice.text
    assert twice.text.count(BEGIN) == 1 and "60.00" in twice.text and "30.00" not in twice.text
    assert "30.00" in once
