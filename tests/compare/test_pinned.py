"""A baseline file says what the run directory says, or one clear message."""

import io
import json
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_runs import Run, everything

from rwkvclip_eval.compare import pinned
from rwkvclip_eval.compare.pairing import pin, read_side
from rwkvclip_eval.errors import OutputError
from rwkvclip_eval.records.metrics import ROC_AUC


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with the runs `main` and `new`, of a unit of every kind, and `main.baseline`."""
    base = tmp_path_factory.mktemp("pinned")
    main, new = Run(base / "main"), Run(base / "new")
    everything(main)
    everything(new)
    main.few_shot(ROC_AUC, dataset="areas")
    new.few_shot(ROC_AUC, dataset="areas", worse=0.5)
    for run in (main, new):
        run.zero_shot("digits", seed=4, flip=0.3 * (run is new))
        run.zero_shot("lost", status="failed", reason="a disk broke", value=None)
        run.write()
    pin(base / "main", None, base / "main.baseline")
    return base


def compared(run, baseline, candidate):
    code, out, err = run("compare", baseline, candidate, "--format", "json")
    assert (code, err) == (1, "")
    content = json.loads(out)
    content["baseline"].pop("run"), content["candidate"].pop("run")
    return content


def test_a_comparison_with_the_file_says_what_one_with_the_run_says(run, made):
    asked = made / "main", made / "new"
    direct = compared(run, *asked)
    assert any(note.startswith("lost, ") for note in direct["notes"])
    assert {row["task"] for row in direct["rows"]} == {
        "zero_shot_classification", "zero_shot_retrieval", "few_shot_linear_probe", "linear_probe"
    }  # fmt: skip
    assert compared(run, made / "main.baseline", made / "new") == direct
    # Either side may be pinned.
    pin(made / "new", None, made / "new.pinned")
    assert compared(run, made / "main.baseline", made / "new.pinned") == direct


def test_the_command_writes_the_file_and_the_same_bytes_again(run, made, tmp_path):
    code, out, err = run("compare", made / "main", "--write-baseline", tmp_path / "a" / "b.baseline")
    assert (code, err) == (0, "")
    assert "Baseline of" in out
    assert (tmp_path / "a" / "b.baseline").read_bytes() == (made / "main.baseline").read_bytes()
    assert run("compare", tmp_path / "a", made / "new")[0] == 1


def test_it_holds_one_model_and_what_is_compared_alone(made, tmp_path):
    both = Run(tmp_path / "run", "first")
    both.zero_shot(flip=0.1)
    both.model = "second"
    both.zero_shot()
    both.write()
    pin(tmp_path / "run", "second", tmp_path / "b")
    side = read_side(tmp_path / "b")
    assert side.model == "second"
    (folder,) = side.folders.values()
    table = pq.read_table(io.BytesIO((folder / "predictions.parquet").read_bytes()))
    assert table.column_names == ["key", "content_id", "label", "prediction", "top_ids"]
    with pytest.raises(OutputError, match="holds 2 models"):
        pin(tmp_path / "run", None, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_million_predictions_take_a_few_megabytes(tmp_path):
    run, size = Run(tmp_path / "run"), 0
    generator = np.random.default_rng(0)
    run.zero_shot(labels=generator.integers(0, 6, 20_000))
    path = next(run.write().rglob("*.parquet"))
    table = pq.read_table(path)
    ids = [bytes(x).hex() for x in generator.integers(0, 256, (20_000, 16), np.uint8)]
    pq.write_table(table.set_column(1, "content_id", [ids]), path)
    size = pin(tmp_path / "run", None, tmp_path / "b")
    assert size < 30 * 20_000
    assert size == (tmp_path / "b").stat().st_size


def refused(path):
    with pytest.raises(OutputError) as error:
        read_side(path)
    return str(error.value)


def test_any_byte_that_changed_is_noticed(made, tmp_path):
    content, path = (made / "main.baseline").read_bytes(), tmp_path / "b"
    head = content.index(b"\n")
    places = [*range(head + 1), *np.random.default_rng(0).integers(head, len(content), 100)]
    for place in places:
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x01]) + content[place + 1 :])
        said = refused(path)
        assert "is no baseline file" in said or "not as it was written" in said or "of format" in said


@pytest.mark.parametrize("kept", [0, 1, 50, 200, 0.5, -1])
def test_a_file_cut_short_is_refused(made, tmp_path, kept):
    content = (made / "main.baseline").read_bytes()
    kept = int(kept * len(content)) if isinstance(kept, float) else kept
    (tmp_path / "b").write_bytes(content[:kept])
    said = refused(tmp_path / "b")
    assert "is no baseline file" in said or "not as it was written" in said


def test_another_version_is_named(run, made, tmp_path):
    content = (made / "main.baseline").read_bytes()
    (tmp_path / "b").write_bytes(content.replace(b"baseline 1 ", b"baseline 2 ", 1))
    code, _, err = run("compare", tmp_path / "b", made / "new")
    assert code == 2
    assert "is a baseline of format 2; this version reads 1" in err


def sealed(path, body):
    """Write a body with the digest that belongs to it, as somebody who means harm would."""
    digest = pinned.hashlib.sha256(body).hexdigest()
    path.write_bytes(f"rwkvclip-eval baseline {pinned.FORMAT_VERSION} {digest}\n".encode() + body)
    return path


def archive(members, **how):
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", **how) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return body.getvalue()


def test_bytes_around_or_between_the_members_are_refused(made, tmp_path):
    content = (made / "main.baseline").read_bytes()
    body = content[content.index(b"\n") + 1 :]
    assert read_side(sealed(tmp_path / "b", body)).numbers
    junk = b"#!/bin/sh\n"
    end = body.rindex(b"PK\x05\x06")
    commented = body[:end] + body[end:-2] + len(junk).to_bytes(2, "little") + junk
    for strange in (junk + body, body + junk, commented):
        assert "no baseline file" in refused(sealed(tmp_path / "b", strange))


def test_a_file_that_somebody_else_made_is_one_message(made, tmp_path):
    content = (made / "main.baseline").read_bytes()
    body = content[content.index(b"\n") + 1 :]
    with zipfile.ZipFile(io.BytesIO(body)) as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    results, path = members["results.jsonl"], tmp_path / "b"
    assert "is no baseline file" in refused(sealed(path, b"no archive"))
    assert "is no baseline file" in refused(sealed(path, archive({"other": b""})))
    assert "that this suite wrote" in refused(
        sealed(path, archive(members, compression=zipfile.ZIP_DEFLATED))
    )
    assert "not a result record" in refused(sealed(path, archive({"results.jsonl": b"{}\n"})))
    away = results.replace(b'"unit": "nano', b'"unit": "../nano')
    assert "no name of a folder" in refused(sealed(path, archive({"results.jsonl": away})))


def test_predictions_that_the_file_lacks_or_holds_wrongly_are_named(run, made, tmp_path):
    content = (made / "main.baseline").read_bytes()
    with zipfile.ZipFile(io.BytesIO(content[content.index(b"\n") + 1 :])) as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    name = next(name for name in members if "digits" in name)
    table, changed = pq.read_table(io.BytesIO(members[name])), io.BytesIO()
    place = table.column_names.index("prediction")
    pq.write_table(table.set_column(place, "prediction", table["label"]), changed)
    for change, said in (
        ({name: b"PAR1"}, "is not a table of predictions"),
        ({name: changed.getvalue()}, "one of them was changed"),
    ):
        sealed(tmp_path / "b", archive(members | change))
        code, _, err = run("compare", tmp_path / "b", made / "new")
        assert code == 2
        assert said in err
        assert f"{tmp_path / 'b'}/predictions/" in err
    sealed(tmp_path / "b", archive({n: c for n, c in members.items() if n != name}))
    code, _, err = run("compare", tmp_path / "b", made / "new")
    assert (code, "the file holds none of this name" in err) == (2, True)


def test_nothing_is_pinned_that_could_not_be_compared(run, made, tmp_path):
    bare = Run(tmp_path / "bare")
    bare.zero_shot()
    next(bare.write().rglob("*.parquet")).unlink()
    code, _, err = run("compare", bare.path, "--write-baseline", tmp_path / "b")
    assert (code, "Cannot read the predictions" in err) == (2, True)
    code, _, err = run("compare", made / "main", made / "new", "--write-baseline", tmp_path / "b")
    assert (code, "takes one run" in err) == (2, True)
    code, _, err = run("compare", made / "main")
    assert (code, "What to judge is missing" in err) == (2, True)
    assert not (tmp_path / "b").exists()


def test_a_folder_of_several_files_asks_which(made, tmp_path):
    for name in ("a.baseline", "b.baseline"):
        (tmp_path / name).write_bytes((made / "main.baseline").read_bytes())
    assert "holds 2 baseline files: name one of them (a.baseline, b.baseline)" in refused(tmp_path)


def test_a_table_that_says_it_is_huge_is_not_read(tmp_path, monkeypatch):
    run = Run(tmp_path / "run")
    run.zero_shot()
    monkeypatch.setattr("rwkvclip_eval.compare.tables.MAX_CELLS", 5000)
    side = read_side(run.write())
    with pytest.raises(OutputError, match=r"has 5600 cells; at most 5000 are compared"):
        pin(tmp_path / "run", None, tmp_path / "b")
    assert side.model == "nano"


def test_keys_of_many_millions_of_letters_are_not_read(tmp_path):
    run = Run(tmp_path / "run")
    run.zero_shot()
    table = pq.read_table(next(run.write().rglob("predictions.parquet")))
    keys = pa.array([f"{i}{'x' * 10_000}" for i in range(table.num_rows)])
    path = next((tmp_path / "run").rglob("predictions.parquet"))
    pq.write_table(table.set_column(table.schema.get_field_index("key"), "key", keys), path)
    with pytest.raises(OutputError, match=r"bytes of texts in 400 rows; at most 2000 a row are compared"):
        pin(tmp_path / "run", None, tmp_path / "b")


def members_of(path):
    content = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content[content.index(b"\n") + 1 :])) as whole:
        return {name: whole.read(name) for name in whole.namelist()}


def test_a_record_of_a_version_that_never_was_or_twice_is_refused(made, tmp_path):
    members, path = members_of(made / "main.baseline"), tmp_path / "b"
    results = members["results.jsonl"]
    never = results.replace(b'"schema_version": 2', b'"schema_version": 0')
    said = refused(sealed(path, archive(members | {"results.jsonl": never})))
    assert "schema_version: Input should be greater than or equal to 1 (got 0)" in said
    said = refused(sealed(path, archive(members | {"results.jsonl": results + results})))
    assert "numbers twice" in said


def test_a_run_that_says_a_number_twice_is_pinned_if_it_says_the_same(made, tmp_path):
    run = Run(tmp_path / "run")
    run.zero_shot()
    results = run.write() / "results.jsonl"
    results.write_text(results.read_text() * 2)
    pin(tmp_path / "run", None, tmp_path / "b")
    assert len(read_side(tmp_path / "b").numbers) == 1
    line = json.loads(results.read_text().splitlines()[0])
    results.write_text(results.read_text() + json.dumps(line | {"value": 0.25}) + "\n")
    with pytest.raises(OutputError, match=r"has two values of .*, top-1: 0\.\d+ and 0\.25"):
        read_side(tmp_path / "run")


def test_a_table_of_class_ids_that_are_none_is_refused(run, made, tmp_path):
    members = members_of(made / "main.baseline")
    name = next(name for name in members if "digits" in name)
    table, changed = pq.read_table(io.BytesIO(members[name])), io.BytesIO()
    ids = table["top_ids"].combine_chunks().flatten().to_numpy().copy()
    ids[1] = -5
    wrong = pa.FixedSizeListArray.from_arrays(pa.array(ids), 5)
    pq.write_table(table.set_column(table.column_names.index("top_ids"), "top_ids", wrong), changed)
    sealed(tmp_path / "b", archive(members | {name: changed.getvalue()}))
    code, _, err = run("compare", tmp_path / "b", made / "new")
    assert code == 2
    assert "column 'top_ids' holds numbers beyond 0 and 10000000" in err


def test_lines_of_millions_of_letters_and_millions_of_lines_or_names_are_not_read(
    made, tmp_path, monkeypatch
):
    members, path = members_of(made / "main.baseline"), tmp_path / "b"
    results = members["results.jsonl"]
    long = results + b'{"unit": "' + b"x" * (2 << 20) + b'"}\n'
    said = refused(sealed(path, archive(members | {"results.jsonl": long})))
    assert "a record of 2097164 bytes; at most 1048576 are read" in said
    said = refused(sealed(path, archive(members | {"results.jsonl": b"1\n" * 60_000})))
    assert "has 60000 records in 120000 bytes; at most 50000 and 67108864 are read" in said
    monkeypatch.setattr(pinned, "_MAX_MEMBERS", 3)
    assert "names more than 3 tables" in refused(sealed(path, archive(members)))


def test_only_a_baseline_is_replaced_and_not_the_one_that_is_read(run, made, tmp_path):
    main = Run(tmp_path / "main")
    main.zero_shot()
    results = main.write() / "results.jsonl"
    before = results.read_bytes()
    (tmp_path / "link").symlink_to(results)
    (tmp_path / "empty").touch()
    for path in (results, tmp_path / "link", tmp_path / "empty", next(main.path.rglob("*.parquet"))):
        code, _, err = run("compare", main.path, "--write-baseline", path)
        assert (code, f"{path} is there and no baseline: it was left as it is." in err) == (2, True)
    assert results.read_bytes() == before and (tmp_path / "link").is_symlink()
    for _ in range(2):
        assert run("compare", main.path, "--write-baseline", tmp_path / "b")[0] == 0
    content = (tmp_path / "b").read_bytes()
    code, _, err = run("compare", tmp_path / "b", "--write-baseline", tmp_path / "b")
    assert (code, "is the baseline that is to be written from" in err) == (2, True)
    assert run("compare", made / "main.baseline", "--write-baseline", tmp_path / "b")[0] == 0
    assert (tmp_path / "b").read_bytes() == (made / "main.baseline").read_bytes() != content
