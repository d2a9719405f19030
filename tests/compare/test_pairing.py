"""Runs are paired by sample, and what cannot be compared is refused with what differs."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_runs import LABELS, NUM, Run, everything, pair

from rwkvclip_eval.compare import formats
from rwkvclip_eval.compare.pairing import compare, read_side
from rwkvclip_eval.compare.result import compare_runs
from rwkvclip_eval.errors import OutputError
from rwkvclip_eval.records.metrics import MEAN_PER_CLASS, MEAN_TOP1_TOP5, ROC_AUC, TOP1, TOP1_PADDED
from rwkvclip_eval.records.reading import write_records


def rows(one, other):
    return compare(read_side(one), read_side(other)).rows


@pytest.fixture
def whole(tmp_path):
    run = Run(tmp_path / "whole")
    everything(run)
    return run.write()


def test_a_run_and_itself_differ_by_nothing_in_every_metric(whole):
    result = compare_runs(read_side(whole), read_side(whole))
    assert len(result.rows) == 4 + 6 + 2 + 2 + 1
    for row in result.rows:
        found = row.compared.found
        assert found.baseline == found.candidate
        assert found.difference.value == 0
        assert found.flipped in (None, ((), ()))
    # Small sets prove nothing about half a point, but one model cannot differ from itself.
    assert result.judgement.verdict == "PASS"
    assert result.judgement.low < -0.005
    assert result.judgement.mean == 0


@pytest.mark.parametrize("add", ["zero_shot", "retrieval", "few_shot", "binary", "multilabel"])
def test_differences_are_those_of_the_recorded_values(tmp_path, add):
    change = {"zero_shot": {"flip": 0.1}, "retrieval": {"worse": 1}, "few_shot": {"worse": 0.5}}
    one, other = pair(tmp_path, add, **change.get(add, {"noise": 1.0}))
    values = [
        {r.metric: r.value for r in records.values()}
        for run in (one, other)
        for records in read_side(run).numbers.values()
    ]
    for row in rows(one, other):
        expected = values[1][row.metric.name] - values[0][row.metric.name]
        assert row.found.difference.value == pytest.approx(expected, abs=1e-6)
        assert row.found.difference.low <= expected <= row.found.difference.high


@pytest.mark.parametrize("metric", [TOP1, MEAN_PER_CLASS, MEAN_TOP1_TOP5, ROC_AUC])
def test_few_shot_numbers_of_every_metric_are_paired_by_seed_and_image(tmp_path, metric):
    one, other = Run(tmp_path / "a"), Run(tmp_path / "b")
    one.few_shot(metric)
    other.few_shot(metric, worse=1.0)
    found = rows(one.write(), other.write())
    assert [row.metric.shots for row in found] == [16, 4]
    for row in found:
        assert row.found.difference.seeds == 3
        # The mean of top-1 and top-5 of two classes moves half as much.
        assert row.found.difference.high < 0


def test_what_flipped_is_named(tmp_path):
    one, other = pair(tmp_path, "zero_shot", flip=0.1)
    found = next(row for row in rows(one, other) if row.metric == TOP1).found
    assert not found.flipped.gained
    tables = [pq.read_table(next(run.rglob("*.parquet"))).to_pandas() for run in (one, other)]
    hit = [t["label"] == t["prediction"] for t in tables]
    assert [flip.key for flip in found.flipped.lost] == list(tables[0]["key"][hit[0] & ~hit[1]])
    assert found.difference.lost == len(found.flipped.lost) > 10


def test_copies_in_another_order_under_other_keys_are_paired_by_content(tmp_path):
    one, other = Run(tmp_path / "a"), Run(tmp_path / "b")
    one.zero_shot()
    order = np.random.default_rng(5).permutation(NUM)
    folder = other.zero_shot(order=order, dataset_fingerprint="shards", flip=0.1)
    path = folder / "predictions.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(0, "key", pa.array([f"s{i}" for i in range(NUM)])), path)
    plain = Run(tmp_path / "c")
    plain.zero_shot(flip=0.1)
    mixed, straight = rows(one.write(), other.write()), rows(one.path, plain.write())
    assert [row.found for row in mixed] == [row.found for row in straight]
    assert "two copies of the data" in mixed[0].notes[0]


def test_pictures_that_repeat_and_overlaps_that_are_known_stand_beside_the_number(tmp_path):
    one, other = pair(tmp_path, "zero_shot", flip=0.1)
    assert rows(one, other)[0].notes == ()
    assert rows(one, other)[0].repeated == (0, 0, NUM)
    for run in (one, other):
        path = next(run.rglob("*.parquet"))
        table = pq.read_table(path)
        ids = table["content_id"].to_pylist()
        ids[5:7], ids[9] = ["id000004#2", "id000004#3"], "id000008#2"
        pq.write_table(table.set_column(1, "content_id", pa.array(ids)), path)
    found = rows(one, other)
    assert {row.repeated for row in found} == {(2, 5, NUM)}
    note = "2 pictures occur more than once (5 of 400 images, by their bytes)"
    assert [row.notes for row in found] == [(note,)] * len(found)
    result = compare_runs(read_side(one), read_side(other))
    assert f"{note}: colours, zero-shot classification." in formats.summary(result)
    assert note.replace("(", "\\(").replace(")", "\\)") in formats.as_github(result)
    told = json.loads(formats.as_json(result))["rows"][0]
    assert told["repeated"] == {"pictures": 2, "images": 5, "num_images": NUM}
    # What a check of the data knows says more than equal bytes.
    notes = {"overlap": "7 of 400 images show pictures of train", "duplicates": "3 pictures occur"}
    whole = tmp_path / "checked"
    run = Run(whole)
    run.zero_shot(flip=0.1, notes=notes)
    assert rows(one, run.write())[0].notes == (notes["overlap"], notes["duplicates"], note)
    assert rows(whole, one)[0].notes == (notes["overlap"], notes["duplicates"])


def refused(one, other):
    with pytest.raises(OutputError) as error:
        compare(read_side(one), read_side(other))
    return str(error.value)


def test_other_samples_are_refused(tmp_path):
    one, other = pair(tmp_path, "zero_shot", labels=LABELS[:-3], dataset_fingerprint="other")
    assert "3 of 400 only in the baseline (id000397, id000398, id000399)" in refused(one, other)


def test_other_labels_of_the_same_images_are_refused(tmp_path):
    labels = LABELS.copy()
    labels[7] = (labels[7] + 1) % 6
    one, other = pair(tmp_path, "zero_shot", labels=labels, dataset_fingerprint="other")
    assert "1 rows have another label, as id000007" in refused(one, other)


def test_images_encoded_again_are_refused(tmp_path):
    one, other = pair(tmp_path, "zero_shot", dataset_fingerprint="jpeg")
    path = next(other.rglob("*.parquet"))
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "content_id", pa.array([f"new{i}" for i in range(NUM)])), path)
    assert "400 of 400 only in the candidate" in refused(one, other)
    assert "Images encoded again are other images" in refused(one, other)


def test_copies_without_content_ids_are_refused_and_one_copy_without_is_compared(tmp_path):
    for fingerprint in ("colours", "other"):
        base = tmp_path / fingerprint
        one, other = pair(base, "zero_shot", dataset_fingerprint=fingerprint)
        for run in (one, other):
            path = next(run.rglob("*.parquet"))
            pq.write_table(pq.read_table(path).drop_columns(["content_id"]), path)
    assert "has no content_id" in refused(one, other)
    assert rows(*(tmp_path / "colours" / name for name in ("baseline", "candidate")))


def change_captions(run, change):
    path = next(run.rglob("text_to_image.parquet"))
    pq.write_table(change(pq.read_table(path)), path)


@pytest.mark.parametrize("which", [0, 1])
def test_copies_of_which_one_keeps_no_captions_are_refused_and_one_copy_is_compared(tmp_path, which):
    for fingerprint in ("scenes", "other"):
        runs = pair(tmp_path / fingerprint, "retrieval", dataset_fingerprint=fingerprint)
        change_captions(runs[which], lambda table: table.drop_columns(["caption_id"]))
    assert "captions are not kept in" in refused(*runs)
    assert rows(*(tmp_path / "scenes" / name for name in ("baseline", "candidate")))


def test_copies_with_captions_in_another_order_are_paired_by_caption(tmp_path):
    one, other = pair(tmp_path, "retrieval", dataset_fingerprint="other", worse=1)
    plain = Run(tmp_path / "plain")
    plain.retrieval(worse=1)
    order = np.random.default_rng(5).permutation(80)
    captions = (3 * order[:, None] + np.array([2, 0, 1])).ravel()

    def elsewhere(table, rows):
        keys = pa.array([f"s{i}" for i in range(80) for _ in range(len(rows) // 80)])
        return table.take(rows).set_column(0, "key", keys)

    def texts(table):
        place = table.column_names.index("caption_index")
        return elsewhere(table, captions).set_column(place, "caption_index", pa.array([0, 1, 2] * 80))

    change_captions(other, texts)
    path = next(other.rglob("image_to_text.parquet"))
    pq.write_table(elsewhere(pq.read_table(path), order), path)
    found = rows(one, other)
    assert [row.found for row in found] == [row.found for row in rows(one, plain.write())]
    assert {row.metric.direction for row in found} == {"image→text", "text→image"}
    assert found[0].found.difference.lost > 10


@pytest.mark.parametrize("metric", ["image_retrieval_recall@1", "text_retrieval_recall@1"])
def test_other_captions_of_the_same_images_are_refused(tmp_path, metric):
    one, other = pair(tmp_path, "retrieval", dataset_fingerprint="other")
    for run in (one, other):
        side = read_side(run)
        write_records(run / "results.jsonl", [side.numbers[unit][metric] for unit in side.numbers])

    def retold(table):
        place = table.column_names.index("caption_id")
        names = table["caption_id"].to_pylist()
        names[22] = "told otherwise"
        return table.set_column(place, "caption_id", pa.array(names))

    change_captions(other, retold)
    assert "other values of 'caption_id', as id007" in refused(one, other)
    change_captions(other, lambda table: table.slice(1))
    assert "1 of 240 only in the baseline (id000)" in refused(one, other)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task_version": 3}, "task version 2 against 3"),
        ({"prompt_hash": "q"}, "other class names, templates or caption prefix (prompt hash p against q)"),
        ({"protocol": "official"}, "lacks 1 of the 1 units"),
        ({"variant": "other"}, "lacks 1 of the 1 units"),
    ],
)
def test_what_was_judged_otherwise_is_refused(tmp_path, change, said):
    assert said in refused(*pair(tmp_path, "zero_shot", **change))


def test_another_protocol_is_named(tmp_path):
    assert "only under official" in refused(*pair(tmp_path, "zero_shot", protocol="official"))


def test_other_training_images_of_the_same_test_images_are_refused(tmp_path):
    one, other = Run(tmp_path / "a"), Run(tmp_path / "b")
    one.binary(fit_fingerprint="x")
    other.binary(fit_fingerprint="y")
    assert "other training or validation images" in refused(one.write(), other.write())


def test_half_a_run_is_refused_with_what_it_lacks(tmp_path):
    one, other = Run(tmp_path / "a"), Run(tmp_path / "b")
    for dataset in ("a", "b", "c"):
        one.zero_shot(dataset)
    other.zero_shot("a")
    said = refused(one.write(), other.write())
    assert "lacks 2 of the 3 units" in said
    assert "zero_shot_classification on b (standard): no number" in said
    # What the candidate has beside is no reason to refuse.
    assert "the baseline lacks it" in compare(read_side(other.path), read_side(one.path)).notes[0]


def test_a_unit_that_failed_says_why(tmp_path):
    one, other = pair(tmp_path, "zero_shot", status="failed", reason="a disk broke")
    with pytest.raises(OutputError, match="a disk broke"):
        read_side(other)
    found = Run(tmp_path / "c")
    found.zero_shot("x")
    found.zero_shot(status="failed", reason="a disk broke", value=None)
    assert "a disk broke" in refused(one, found.write())


def test_missing_predictions_are_refused(tmp_path):
    one, other = pair(tmp_path, "zero_shot")
    next(other.rglob("*.parquet")).unlink()
    assert "Cannot read the predictions" in refused(one, other)


@pytest.mark.parametrize("cut", [0, 10, 2000])
def test_damaged_predictions_are_refused(tmp_path, cut):
    one, other = pair(tmp_path, "zero_shot")
    path = next(other.rglob("*.parquet"))
    path.write_bytes(path.read_bytes()[:cut])
    assert "is not a table of predictions" in refused(one, other)


def test_one_byte_that_changed_is_no_traceback(tmp_path):
    one, other = pair(tmp_path, "zero_shot", flip=0.1)
    path = next(other.rglob("*.parquet"))
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    for place in generator.integers(0, len(content), 150):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            rows(one, other)
        except OutputError:
            continue


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("prediction", pa.array(["a"] * NUM), "expected whole numbers"),
        ("prediction", pa.array([None] * NUM, pa.int64()), "lacks 400 values"),
        ("key", pa.array([1] * NUM), "expected texts"),
        ("prediction", pa.array([0] * NUM), "one of them was changed"),
        ("prediction", None, "has no column 'prediction'"),
    ],
)
def test_tables_of_another_form_are_refused(tmp_path, column, values, said):
    one, other = pair(tmp_path, "zero_shot")
    path = next(other.rglob("*.parquet"))
    table = pq.read_table(path)
    place = table.column_names.index(column)
    changed = table.remove_column(place) if values is None else table.set_column(place, column, values)
    pq.write_table(changed, path)
    assert said in refused(one, other)


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    one, other = pair(tmp_path, "multilabel")
    path = next(other.rglob("*.parquet"))
    table = pq.read_table(path)
    scores = pa.FixedSizeListArray.from_arrays(pa.array(np.full(600, np.nan)), 5)
    pq.write_table(table.set_column(3, "scores", scores), path)
    assert "not finite" in refused(one, other)


def test_other_seeds_are_refused(tmp_path):
    one, other = Run(tmp_path / "a"), Run(tmp_path / "b")
    one.few_shot()
    other.few_shot(seeds=(1, 2, 4))
    assert "seeds of 16 shots are [1, 2, 3] and [1, 2, 4]" in refused(one.write(), other.write())


def test_a_single_seed_is_shown_and_not_judged(tmp_path):
    one = Run(tmp_path / "a")
    one.few_shot(seeds=(1,))
    one.zero_shot()
    result = compare_runs(read_side(one.write()), read_side(one.path))
    few = [row for row in result.rows if row.compared.metric.shots]
    assert [row.verdict for row in few] == [None, None]
    assert formats.cells(few[0])[4] == "no interval"
    assert "one seed" in few[0].compared.notes[0]


def test_several_models_must_be_told_apart(tmp_path):
    run = Run(tmp_path / "a", "first")
    run.zero_shot()
    run.model = "second"
    run.zero_shot(flip=0.1)
    run.write()
    with pytest.raises(OutputError, match="holds 2 models: first, second"):
        read_side(run.path)
    with pytest.raises(OutputError, match="no model 'third'"):
        read_side(run.path, "third")
    found = compare(read_side(run.path, "first"), read_side(run.path, "second"))
    assert found.rows[0].found.difference.lost > 0


def test_records_of_the_first_schema_version_are_compared(tmp_path):
    one, other = pair(tmp_path, "zero_shot", metric_info=None, schema_version=1, flip=0.1)
    assert rows(one, other)[0].metric == TOP1
    assert rows(other, one)


def test_numbers_that_only_later_versions_give_are_left_out_but_for_the_primary_one(tmp_path):
    one, other = Run(tmp_path / "a"), Run(tmp_path / "b")
    one.zero_shot()
    other.zero_shot()
    other.records = [record for record in other.records if record.metric != MEAN_PER_CLASS.name]
    found = compare(read_side(one.write()), read_side(other.write()))
    assert MEAN_PER_CLASS not in [row.metric for row in found.rows]
    assert len(found.notes) == 1
    assert "mean per class not compared (only the baseline has it)" in found.notes[0]
    other.records = [record for record in other.records if record.metric != TOP1.name]
    assert "only the baseline has top-1" in refused(one.path, other.write())


def test_the_repeat_may_be_the_candidate_itself(tmp_path):
    one, other = pair(tmp_path, "zero_shot", flip=0.1)
    side = read_side(other)
    found = compare(read_side(one), side, side).rows
    assert all(row.repeat == row.found for row in found)
    assert compare_runs(read_side(one), side, side).judgement.verdict == "AMBIGUOUS"


def test_a_metric_is_known_under_the_title_that_an_older_version_gave_it(tmp_path):
    one, other = Run(tmp_path / "a"), Run(tmp_path / "b")
    one.retrieval()
    other.retrieval()
    other.records = [
        dataclasses.replace(r, metric_info=dataclasses.replace(r.metric_info, title="as it was"))
        for r in other.records
    ]
    assert len(rows(other.write(), one.write())) == len(one.records)


def test_padded_rows_change_the_scale_alone(tmp_path):
    found = []
    for name, flip in (("a", 0.0), ("b", 0.1)):
        run = Run(tmp_path / name)
        run.zero_shot(flip=flip)
        top1 = next(r for r in run.records if r.metric == TOP1.name)
        value = (top1.value * NUM + 100) / 500
        run.records.append(
            dataclasses.replace(
                top1, metric=TOP1_PADDED.name, metric_info=TOP1_PADDED, value=value, notes={"rows": 500}
            )
        )
        found.append(run.write())
    by_metric = {row.metric.name: row.found for row in rows(*found)}
    plain, padded = by_metric[TOP1.name], by_metric[TOP1_PADDED.name]
    assert padded.candidate - padded.baseline == pytest.approx(0.8 * plain.difference.value)
    assert padded.difference.low == pytest.approx(0.8 * plain.difference.low)


def test_a_unit_cannot_lead_out_of_its_run(tmp_path):
    one, other = pair(tmp_path, "zero_shot")
    text = (other / "results.jsonl").read_text().replace('"nano--zero_shot', '"../nano--zero_shot')
    (other / "results.jsonl").write_text(text)
    with pytest.raises(OutputError, match="no name of a folder"):
        read_side(other)
    assert one
