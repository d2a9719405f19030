import io
import json
import sys

import pytest
import yaml
from pair_files import as_csv, as_npy, as_parquet, as_rec, as_tar, jpeg, pairs, write_tar
from PIL import Image
from test_loop import recipe
from test_train_cli import Result

from rwkvclip_train.cli import main
from rwkvclip_train.data.build import Settings, build_index


@pytest.fixture
def run(monkeypatch, capsys):
    """Run `rwkvclip-train ARGUMENTS` in this process."""

    def call(*arguments):
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "argv", ["rwkvclip-train", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        shown = capsys.readouterr()
        return Result(left.value.code, shown.out + shown.err)

    return call


def trainable(folder, data, **changes):
    """A recipe that trains on `data`, as a file."""
    path = folder / "mine.yaml"
    asked = recipe("open_clip", data=[data], batch_size=2, steps=4, checkpoint_every=4, **changes)
    path.write_text(yaml.safe_dump(asked.model_dump(mode="json", exclude_none=True)))
    return path


@pytest.mark.parametrize("command", ["index", "stats", "peek", "bench"])
def test_help_of_every_command_shows_examples(command, run):
    result = run("data", command, "--help")
    assert result.exit_code == 0
    assert f"rwkvclip-train data {command}" in result.output
    assert "--json" in result.output


def test_the_group_and_the_recipes_help_name_each_other(run):
    assert {"index", "stats", "peek", "bench"} <= set(run("data", "--help").output.split())
    assert "rwkvclip-train data" in run("--help").output
    assert run("data", "indexes", "x").exit_code == 2


@pytest.mark.parametrize("write", [as_tar, as_rec, as_parquet, as_npy, as_csv])
def test_from_a_folder_to_a_trained_model(write, tmp_path, run):
    write(tmp_path / "pairs", pairs())
    indexed = run("data", "index", tmp_path / "pairs", "--json")
    assert indexed.exit_code == 0, indexed.output
    assert json.loads(indexed.output)["num_pairs"] == 5
    assert json.loads(indexed.output)["kinds"] == ["raw", "synthetic"]
    data = {"path": str(tmp_path / "pairs"), "texts": {"raw": 1, "synthetic": 2.5}}
    path = trainable(tmp_path, data)
    result = run(path, "--out", tmp_path / "out", "--quiet", "--threads", "1", "--num-workers", "1")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "models" / "tiny" / "step_000004.safetensors").is_file()


def test_a_path_is_looked_for_below_the_data_root_too(tmp_path, run, monkeypatch):
    as_tar(tmp_path / "data" / "pairs", pairs())
    build_index(tmp_path / "data" / "pairs")
    monkeypatch.chdir(tmp_path)
    path = trainable(
        tmp_path,
        {"path": "pairs", "texts": {"raw": 1}},
    )
    arguments = (path, "--out", tmp_path / "out", "--quiet", "--threads", "1")
    assert run(*arguments).exit_code == 2
    assert run(*arguments, "--data-root", tmp_path / "data").exit_code == 0


def test_computed_pairs_train(tmp_path, run):
    path = trainable(tmp_path, {"path": "synthetic:8@32x32", "texts": {"raw": 1, "generated": 1}})
    assert run(path, "--out", tmp_path / "out", "--quiet", "--threads", "1").exit_code == 0


def cut_tar(folder):
    as_tar(folder, pairs())
    build_index(folder)
    (folder / "0.tar").write_bytes((folder / "0.tar").read_bytes()[:4000])


def beside_a_good_one(folder, name, image):
    said = b'{"raw": "x"}'
    write_tar(folder / "0.tar", [(name, image), ("a.json", said), ("b.jpg", jpeg(0)), ("b.json", said)])
    build_index(folder)


def broken_jpeg(folder):
    # Its head is whole, so that it breaks while it is decoded.
    whole = jpeg(0)
    beside_a_good_one(folder, "a.jpg", whole[: (len(whole) + whole.index(b"\xff\xda")) // 2])


def bomb(folder):
    stream = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(stream, "PNG")
    beside_a_good_one(folder, "a.png", stream.getvalue())


def captions(text):
    def make(folder):
        said = json.dumps({"raw": text, "other": "x"}).encode()
        members = [("a.jpg", jpeg(0)), ("a.json", said), ("b.jpg", jpeg(0)), ("b.json", b'{"raw": "x"}')]
        write_tar(folder / "0.tar", members)
        build_index(folder)

    return make


def no_kind(folder):
    write_tar(folder / "0.tar", [("a.jpg", jpeg(0)), ("a.txt", b"x"), ("b.jpg", jpeg(1)), ("b.txt", b"x")])
    build_index(folder)


def no_index(folder):
    as_tar(folder, pairs())


BAD = {
    "a shard cut off since": (cut_tar, "changed since it was made: 0.tar (4000 bytes now"),
    "a broken JPEG": (broken_jpeg, "0.tar:a"),
    "a decompression bomb": (bomb, "0.tar:a: at most 178956970 pixels are decoded"),
    "an empty caption": (captions(""), "1 of 2 pairs have no text of kind raw (0.tar:a)"),
    "a caption of 10,000 letters": (
        captions("y" * 10_000),
        "1 of 2 pairs have no text of kind raw (0.tar:a)",
    ),
    "a kind that is not there": (no_kind, "Unknown kind of text 'raw'"),
    "no index": (no_index, "rwkvclip-train data index"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.timeout(180)
def test_bad_data_end_training_with_the_place_and_exit_code_2(what, workers, tmp_path, run):
    make, said = BAD[what]
    make(tmp_path / "pairs")
    path = trainable(tmp_path, {"path": str(tmp_path / "pairs"), "texts": {"raw": 1}})
    result = run(path, "--out", tmp_path / "out", "--quiet", "--threads", "1", "--num-workers", workers)
    assert result.exit_code == 2, result.output
    assert said in result.output
    assert "Traceback" not in result.output
    assert not list(tmp_path.glob("out/models/tiny/*.safetensors"))


def test_a_cut_tar_is_refused_by_the_index(tmp_path, run):
    as_tar(tmp_path, pairs())
    (tmp_path / "0.tar").write_bytes((tmp_path / "0.tar").read_bytes()[:4000])
    result = run("data", "index", tmp_path)
    assert result.exit_code == 2
    assert "0.tar is cut off or damaged" in result.output


def test_index_says_what_is_not_drawn_and_left_out(tmp_path, run):
    captions("")(tmp_path)
    write_tar(tmp_path / "1.tar", [("c.jpg", jpeg(3))])
    result = run("data", "index", tmp_path)
    assert "texts not drawn: 1, raw: empty (0.tar:a)" in result.output
    assert "samples left out: 1, no usable text (1.tar:c)" in result.output


def test_stats_find_broken_images_and_copies_and_index_leaves_them_out(tmp_path, run):
    broken_jpeg(tmp_path)
    write_tar(tmp_path / "1.tar", [("c.jpg", jpeg(0)), ("c.json", b'{"raw": "longer", "made": "up"}')])
    build_index(tmp_path)
    result = run(
        "data", "stats", tmp_path, "--broken", tmp_path / "broken.txt", "--json", "--num-workers", "2"
    )
    assert result.exit_code == 1
    found = json.loads(result.output)
    assert found["pairs"] == found["looked_at"] == 3
    assert [key for key, _ in found["broken"]] == ["0.tar:a"]
    assert (found["same_image"], found["copies"]) == (1, [["0.tar:b", "1.tar:c"]])
    assert found["same_text"] == 1
    assert found["kinds"]["raw"] == {"pairs": 3, "texts": 3, "length": [1, 1, 1, 5.5, 6]}
    assert found["kinds"]["made"]["pairs"] == 1
    assert found["width_px"] == [48] * 5
    assert run("data", "index", tmp_path, "--without", tmp_path / "broken.txt").exit_code == 0
    again = run("data", "stats", tmp_path)
    assert again.exit_code == 0, again.output
    assert "0.tar:b = 1.tar:c" in again.output


OTHERS = {
    "a shard": "0.tar",
    "a link to a shard": "link.tar",
    "a file of the index": "index/keys.bin",
    "an empty file of the index": "index/texts.bin",
    "what the index says": "index/about.json",
    "a picture": "picture.jpg",
    "a text": "notes.txt",
    "a table": "pairs.csv",
    "a list of keys alone": "keys.txt",
}


@pytest.mark.parametrize("what", OTHERS)
def test_stats_replace_only_a_list_of_broken_images(tmp_path, run, what):
    broken_jpeg(tmp_path)
    build_index(tmp_path)
    (tmp_path / "link.tar").symlink_to("0.tar")
    (tmp_path / "picture.jpg").write_bytes(jpeg(3))
    (tmp_path / "notes.txt").write_text("a line\nand another\n")
    (tmp_path / "pairs.csv").write_text("image,text\na.jpg,b: c\n")
    (tmp_path / "keys.txt").write_text("0.tar:a\n")
    path = tmp_path / OTHERS[what]
    before = path.read_bytes()
    result = run("data", "stats", tmp_path, "--broken", path)
    assert result.exit_code == 2
    assert "is there and no list of broken images: it was left as it is" in " ".join(result.output.split())
    assert path.read_bytes() == before


def test_stats_replace_the_list_of_before_and_an_empty_one(tmp_path, run):
    broken_jpeg(tmp_path)
    build_index(tmp_path)
    path = tmp_path / "broken.txt"
    path.touch()
    for _ in range(2):
        assert run("data", "stats", tmp_path, "--broken", path).exit_code == 1
        assert path.read_text().startswith("0.tar:a\t")


def test_a_table_that_looks_like_a_list_of_broken_images_is_no_such_list(tmp_path, run):
    (tmp_path / "a:b.jpg").write_bytes(jpeg(1))
    path = tmp_path / "pairs.csv"
    path.write_text("image,caption:\ty\na:b.jpg,x\ty\n")
    build_index(tmp_path, settings=Settings(layout="csv", image_column="image"))
    result = run("data", "stats", tmp_path, "--broken", path)
    assert result.exit_code == 2 and path.read_text().startswith("image,")


def test_stats_say_that_an_index_was_changed(tmp_path, run):
    as_tar(tmp_path, pairs())
    build_index(tmp_path)
    path = tmp_path / "index" / "keys.bin"
    path.write_bytes(path.read_bytes().swapcase())
    result = run("data", "stats", tmp_path)
    assert result.exit_code == 1
    assert "keys.bin was changed since it was written" in result.output


def test_peek_of_a_recipe_is_what_the_step_takes(tmp_path, run, monkeypatch):
    from rwkvclip_train import loop

    as_rec(tmp_path / "pairs", pairs())
    build_index(tmp_path / "pairs")
    path = trainable(tmp_path, {"path": str(tmp_path / "pairs"), "texts": {"raw": 1, "synthetic": 1}})
    seen, load = [], loop.load

    def watched(*arguments, **options):
        for batch in load(*arguments, **options):
            seen.append(batch.tokens)
            yield batch

    monkeypatch.setattr(loop, "load", watched)
    assert run(path, "--out", tmp_path / "out", "--quiet", "--threads", "1").exit_code == 0
    from rwkvclip_models import tokenize

    for step in (1, 4):
        shown = run("data", "peek", path, "--step", step, "-o", tmp_path / "sheet.html", "--json")
        assert shown.exit_code == 0, shown.output
        texts = [pair["text"] for pair in json.loads(shown.output)]
        assert tokenize(texts, context_length=16).tolist() == seen[step - 1].tolist()
    assert run("data", "peek", path, "--step", "5", "-o", tmp_path / "x.png").exit_code == 2


@pytest.mark.parametrize("name", ["sheet.png", "sheet.html"])
def test_a_sheet_shows_pictures_and_texts(name, tmp_path, run):
    text = "<script>alert(1)</script> " + "long words " * 80
    write_tar(tmp_path / "0.tar", [("a&b.jpg", jpeg(0)), ("a&b.raw.txt", text.encode())])
    build_index(tmp_path)
    result = run("data", "peek", tmp_path, "--texts", "raw=2", "--size", "40", "-o", tmp_path / name)
    assert result.exit_code == 0, result.output
    if name.endswith("png"):
        with Image.open(tmp_path / name) as sheet:
            assert sheet.width > 224
    else:
        page = (tmp_path / name).read_text()
        assert "&lt;script&gt;" in page
        assert "<script" not in page
        assert "0.tar:a&amp;b" in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("peek", "synthetic:4", "-o", "x.pdf"), "ends in .png or .html"),
        (("peek", "synthetic:4", "--texts", "raw=-1"), "expected KIND=WEIGHT"),
        (("peek", "synthetic:4", "--texts", "raw=0"), "one weight must be above 0"),
        (("peek", "synthetic:4", "--texts", "row=1"), "Did you mean 'raw'"),
        (("peek", "gone.yaml"), "No recipe at gone.yaml"),
        (("stats", "gone"), "There is no folder gone"),
        (("bench", "synthetic:four"), "expected synthetic:N"),
        (("index", "gone"), "There is no folder gone"),
    ],
)
def test_bad_arguments_are_one_message_and_exit_code_2(arguments, said, tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    result = run("data", *arguments)
    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output


def test_bench_measures_both_loaders_and_the_difference_of_pixels(tmp_path, run):
    result = run(
        "data", "bench", "synthetic:4@200x160", "--size", "64", "--images", "4", "--rounds", "1", "--json"
    )
    assert result.exit_code == 0, result.output
    speed = json.loads(result.output)
    assert speed["images_per_s"] > 0
    assert speed["plain_images_per_s"] > 0
    assert speed["reduced_share"] == 1
    assert 0 < speed["mean_error"] <= speed["max_error"]
    assert (
        "torchvision + Pillow" in run("data", "bench", "synthetic:4", "--images", "2", "--rounds", "1").output
    )


@pytest.mark.data
def test_real_shards_are_indexed_counted_and_shown(shared_data, tmp_path, run):
    folder, index = shared_data / "wds_flickr8k_train", tmp_path / "index"
    assert run("data", "index", folder, "--index", index).exit_code == 0
    stats = json.loads(run("data", "stats", folder, "--index", index, "--limit", "300", "--json").output)
    assert stats["pairs"] == 6000
    assert stats["kinds"]["txt"]["texts"] == 1500
    assert stats["broken"] == []
    assert stats["width_px"] == [96] * 5
    shown = run("data", "peek", folder, "--index", index, "-o", tmp_path / "sheet.png", "--json")
    assert len({pair["key"] for pair in json.loads(shown.output)}) == 16


def test_help_of_the_data_commands_loads_no_torch():
    import os
    import subprocess

    code = "import sys, rwkvclip_train.data_cli; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0
