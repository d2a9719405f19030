import csv
import io
import json
import shlex

import pytest

from rwkvclip_eval.data.catalogue import catalogue, choose_variant
from rwkvclip_eval.data.listing import catalogue_rows, describe
from rwkvclip_eval.data.open import open_dataset
from rwkvclip_eval.data.types import DatasetRef
from rwkvclip_eval.errors import DataNotFound, UserError
from rwkvclip_eval.plan.suite import parse_suite
from rwkvclip_eval.plan.units import plan
from rwkvclip_eval.run.needs import needs_of, tell_coverage


def test_list_shows_what_the_data_root_holds(tmp_path, write_wds):
    write_wds(tmp_path, "vtab-cifar10", [[0]])
    write_wds(tmp_path, "my_birds", [["a"]], dataset_type="retrieval")
    write_wds(tmp_path, "sun397@seed5", [[0]])
    for published in ("dtd", "birdsnap"):
        (tmp_path / published).mkdir()
    rows = {(r.name, r.variant): r for r in catalogue_rows(tmp_path)}
    assert rows["cifar10", "default"].found == "wds_vtab-cifar10"
    assert rows["cifar10", "default"].num_test == 10000
    assert rows["dtd", "default"].found == "dtd"
    assert rows["digits", "default"].found == "embedded"
    assert rows["pets", "default"].found == ""
    assert rows["my_birds", "default"].kind == "retrieval"
    assert rows["birdsnap", "default"].found == "birdsnap"
    assert rows["voc2007", "crops"].kind == "classification"
    assert "sun397@seed5" not in {name for name, _ in rows}
    assert ("sun397", "partition1") in rows and ("sun397", "full") in rows
    assert all(r.found in ("", "embedded") for r in catalogue_rows(None))


def test_every_version_says_how_to_get_it_and_published_files_are_named_as_what_download_fetches():
    rows = {(r.name, r.variant): r for r in catalogue_rows(None)}
    assert rows["voc2007", "default"].obtain == "rwkvclip-eval data download voc2007 --data-root DATA"
    assert rows["stl10", "fold0"].obtain == "rwkvclip-eval data download stl10@fold0 --data-root DATA"
    assert rows["hateful_memes", "default"].obtain == "rwkvclip-eval data list hateful_memes"
    assert all(r.obtain for r in rows.values() if r.found != "embedded")


def test_a_data_root_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(DataNotFound, match="is not a folder"):
            catalogue_rows(root)


def test_a_broken_folder_does_not_hide_the_others(tmp_path, write_wds):
    write_wds(tmp_path, "bad", [[0]], dataset_type="segmentation")
    write_wds(tmp_path, "good", [[0]], classnames="a")
    rows = {row.name: row for row in catalogue_rows(tmp_path)}
    assert rows["good"].kind == "classification"
    assert "found 'segmentation'" in rows["bad"].title


def printed(text):
    return list(csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.fixture
def fetched(monkeypatch):
    """What `data download` is asked for; nothing is fetched."""
    asked = []

    def download(ref, data_root, splits, *, on_progress):
        choose_variant(ref.name, catalogue()[ref.name], ref.variant)
        asked.append((ref.name, ref.variant, tuple(splits)))
        return "done"

    monkeypatch.setattr("rwkvclip_eval.data.download.download_dataset", download)
    return asked


def test_every_command_that_the_list_prints_works_as_it_is_printed(run, tmp_path, fetched):
    root = tmp_path / "my data"
    root.mkdir()
    for options in ((), ("--data-root", root)):
        code, out, _ = run("data", "list", *options)
        rows = printed(out)
        assert code == 0 and len(rows) > 50
        commands = [shlex.split(row["obtain"]) for row in rows if row["obtain"]]
        assert all(command[:2] == ["rwkvclip-eval", "data"] for command in commands)
        for command in {tuple(command) for command in commands}:
            assert run(*command[1:])[0] == 0, command
    assert ("sun397", "seed0", ()) in fetched
    assert {path.name for path in tmp_path.iterdir()} <= {"my data", "cache"}


def test_on_a_pipe_a_list_is_tab_separated_and_every_line_has_every_column(run):
    for command in (("data", "list"), ("data", "list", "--suite", "paper"), ("suites",), ("models",)):
        code, out, _ = run(*command)
        lines = out.splitlines()
        assert code == 0 and lines[0].count("\t") > 1
        assert {line.count("\t") for line in lines} == {lines[0].count("\t")}, command


def test_no_line_of_the_list_holds_a_recipe(run):
    _, out, _ = run("data", "list")
    assert max(map(len, out.splitlines())) < 400
    assert "wget" not in out


def test_a_dataset_by_name_says_its_recipe_with_the_users_own_folder(run, tmp_path):
    code, out, _ = run("data", "list", "kinetics700", "sun397", "--data-root", tmp_path)
    assert code == 0
    assert "DATA_ROOT" not in out
    assert f"data prepare kinetics700 --from {tmp_path}/kinetics700 --data-root {tmp_path}" in out
    assert "licence: annotations CC BY 4.0" in out
    assert "sun397@partition1: train 19,850, test 19,850; 39.1 GB; not there" in out
    assert run("data", "list", "kinetics7000")[0] == 2
    with pytest.raises(UserError, match="Did you mean 'kinetics700'"):
        describe("kinetics7000", None)


def test_a_suites_list_says_sizes_and_whose_terms_must_be_accepted(run, tmp_path, write_wds):
    write_wds(tmp_path, "vtab-cifar10", [[0]])
    code, out, err = run("data", "list", "--suite", "zero-shot-11", "--data-root", tmp_path)
    rows = {(row["name"], row["variant"]): row for row in printed(out)}
    assert code == 0
    assert rows["cifar10", "default"]["found"] == "wds_vtab-cifar10"
    assert rows["sun397", "partition1"]["size_gb"] == "39.1"
    assert rows["imagenet", "default"]["size_gb"] == "~154"
    assert rows["imagenet", "default"]["terms"] == "apply at the homepage"
    assert "1 of 12 datasets found. To fetch: about " in err
    assert "imagenet (apply at the homepage)" in err
    assert ("mnist", "default") not in rows


def test_a_probes_suite_needs_the_training_split_too(run, tmp_path, write_wds):
    write_wds(tmp_path, "mnist", [[0]])
    _, out, _ = run("data", "list", "--suite", "linear-probe-26", "--data-root", tmp_path)
    assert next(row for row in printed(out) if row["name"] == "mnist")["found"] == ""


def test_sizes_are_exact_only_where_what_is_fetched_has_them():
    sizes = {(n, v): entry.size_of(v) for n, entry in catalogue().items() for v in entry.variants}
    assert sizes["kitti", "default"] == "~13"  # The hub's copy holds the same pictures, not the same bytes.
    assert sizes["ucf101", "default"] == "6.96"
    assert sizes["birdsnap", "default"] == "?"
    assert sizes["digits", "default"] == "0"


def test_a_suites_data_are_fetched_without_what_is_there_and_what_is_by_hand(
    run, tmp_path, fetched, write_wds
):
    write_wds(tmp_path, "vtab-cifar10", [[0]])
    suite = tmp_path / "s.yaml"
    suite.write_text(
        "name: s\ntasks:\n"
        "  - {task: zero_shot_classification, datasets: [cifar10, sun397@seed3, hateful_memes]}\n"
        "  - {task: linear_probe, datasets: [dtd]}\n"
    )
    code, out, _ = run("data", "download", "--suite", suite, "--data-root", tmp_path)
    assert fetched == [("sun397", "seed3", ("test",)), ("dtd", None, ("test", "train", "val"))]
    assert "cifar10: already there (wds_vtab-cifar10)." in out
    assert "hateful_memes: by hand; rwkvclip-eval data list hateful_memes" in out
    assert code == 3
    assert run("data", "download", "--suite", suite, "cifar10", "--data-root", tmp_path)[0] == 2
    assert run("data", "download", "--data-root", tmp_path)[0] == 2


def test_one_dataset_that_cannot_be_had_does_not_stop_the_others(run, tmp_path, monkeypatch):
    def download(ref, *_, **__):
        if ref.name == "dtd":
            raise DataNotFound("The server is away.")
        return f"{ref.name}: done"

    monkeypatch.setattr("rwkvclip_eval.data.download.download_dataset", download)
    code, out, _ = run("data", "download", "dtd", "pets", "--data-root", tmp_path)
    assert code == 3
    assert out.splitlines() == ["dtd: failed: The server is away.", "pets: done"]
    assert run("data", "download", "dtd", "--data-root", tmp_path)[0] == 2


def test_where_another_version_is_there_the_message_names_it(tmp_path, write_wds):
    write_wds(tmp_path, "fer2013", [[0]])
    write_wds(tmp_path, "sun397@seed7", [[0]])
    with pytest.raises(DataNotFound, match=r"There is fer2013@clip-benchmark \(wds_fer2013\): name it so"):
        open_dataset(DatasetRef(name="fer2013"), data_root=tmp_path)
    with pytest.raises(DataNotFound, match=r"There is sun397@seed7 \(wds_sun397@seed7\)"):
        open_dataset(DatasetRef(name="sun397@seed3"), data_root=tmp_path)
    with pytest.raises(DataNotFound) as caught:
        open_dataset(DatasetRef(name="dtd"), data_root=tmp_path)
    assert "There is" not in str(caught.value)


def test_a_run_says_which_other_version_is_there(tmp_path, write_wds):
    write_wds(tmp_path, "fer2013", [[0]])
    tasks = [{"task": "zero_shot_classification", "datasets": ["fer2013"]}]
    units = plan(parse_suite(json.dumps({"name": "s", "tasks": tasks})))
    problems = {units[0].name(""): DataNotFound("absent")}
    assert tell_coverage(needs_of(units), problems, tmp_path)[1].startswith(
        "  fer2013@official: no test; but fer2013@clip-benchmark (wds_fer2013) is there; by hand"
    )


def test_what_records_keep_of_missing_data_names_no_folder_of_this_machine(tmp_path):
    with pytest.raises(DataNotFound) as caught:
        open_dataset(DatasetRef(name="dtd"), data_root=tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert caught.value.brief == (
        "No data for dtd, split test: rwkvclip-eval data download dtd --data-root DATA"
    )
