import hashlib
import json
import pickle

import miniatures
import numpy as np
import pytest
from miniatures import COUNTRIES as CODES
from miniatures import EUROSAT, picture

from rwkvclip_eval.data.formats import class_folders, reader_of
from rwkvclip_eval.data.prompts import shipped
from rwkvclip_eval.data.samples import decode_image
from rwkvclip_eval.errors import DamagedData, DataNotFound


def opened(name, root, split, variant="default"):
    return pickle.loads(pickle.dumps(reader_of(name)(root, split, variant, root / "cache")))


def pixels(split, index):
    return np.asarray(decode_image(split.images.read(index), split.images.where(index)))


def test_gtsrb_reads_training_folders_and_the_answers_of_the_test(tmp_path):
    miniatures.gtsrb(tmp_path)
    base, answers = tmp_path / "GTSRB", tmp_path / "GT-final_test.csv"
    header = answers.read_text().partition("\n")[0] + "\n"
    first = picture(base / "Training" / "00000" / "00000_00000.ppm")
    test_pixels = picture(base / "Final_Test" / "Images" / "00000.ppm")
    train, test = opened("gtsrb", tmp_path, "train"), opened("gtsrb", tmp_path, "test")
    assert train.labels.tolist() == [0, 42] and test.labels.tolist() == [16, 1]
    assert train.keys[1] == "GTSRB/Training/00042/00000_00000.ppm"
    assert (pixels(train, 0) == first).all() and (pixels(test, 0) == test_pixels).all()
    assert opened("gtsrb", tmp_path, "train", "full").labels.tolist() == [7]
    assert test.class_names == shipped("labels", "gtsrb")
    answers.write_text(header + "00000.ppm;6;6\n")
    with pytest.raises(DamagedData, match="GT-final_test"):
        opened("gtsrb", tmp_path, "test")
    answers.write_text(header + "00009.ppm;6;6;1;1;5;5;16\n")
    with pytest.raises(DamagedData, match=r"1 of 1 images are not below .*00009\.ppm"):
        opened("gtsrb", tmp_path, "test")
    answers.unlink()
    with pytest.raises(DataNotFound, match="GT-final_test"):
        opened("gtsrb", tmp_path, "test")


@pytest.mark.parametrize(
    ("name", "folder", "classes"),
    [
        ("eurosat", "2750", EUROSAT),
        ("resisc45", "NWPU-RESISC45", ["airplane", "airport", "baseball_diamond"]),
    ],
)
def test_satellite_images_are_split_by_documented_rules(tmp_path, monkeypatch, name, folder, classes):
    draw = {"train": (0, 2), "test": (2, 5)}
    monkeypatch.setattr(class_folders, f"{name.upper()}_DRAW", draw)
    miniatures.class_folders(tmp_path / folder, classes, [f"{{c}}_{i}.jpg" for i in range(1, 6)])
    for variant, splits in {"draw": draw, "vtab": ("train", "val", "test")}.items():
        parts = {split: opened(name, tmp_path, split, variant) for split in splits}
        keys = [key for part in parts.values() for key in part.keys]
        assert len(set(keys)) == len(keys) == 5 * len(classes)
        for part in parts.values():
            assert [classes[i] for i in part.labels] == [key.split("/")[1] for key in part.keys]
    drawn = opened(name, tmp_path, "train", "draw")
    files = [f"{classes[0]}/{classes[0]}_{i}.jpg" for i in range(1, 6)]
    best = sorted(files, key=lambda f: hashlib.sha256(f"0:{f}".encode()).hexdigest())[:2]
    assert [k.split("/", 1)[1] for k in drawn.keys[:2]] == sorted(best)
    every = [(c, f"{c}_{i}.jpg") for c in classes for i in range(1, 6)]
    every.sort(key=lambda p: int(hashlib.md5(f"train{p[0]}_{p[1]}".encode()).hexdigest(), 16))
    vtab = opened(name, tmp_path, "test", "vtab")
    assert {k.split("/", 1)[1] for k in vtab.keys} == {f"{c}/{f}" for c, f in every[len(every) * 80 // 100 :]}
    assert vtab.class_names == (shipped("labels", name) or tuple(classes))
    (tmp_path / folder / classes[0] / f"{classes[0]}_1.jpg").unlink()
    with pytest.raises(DamagedData, match=f"draw needs 5 images.*{classes[0]}"):
        opened(name, tmp_path, "test", "draw")
    with pytest.raises(DataNotFound, match=folder):
        opened(name, tmp_path / folder, "test", "draw")


def test_eurosat_whole_has_a_test_split_only(tmp_path):
    base = tmp_path / "eurosat" / "2750"
    first, *_ = [picture(base / label / f"{label}_1.jpg") for label in EUROSAT]
    found = opened("eurosat", tmp_path, "test", "full")
    assert (pixels(found, 0) == first).all()
    with pytest.raises(DataNotFound, match="no official split 'train'"):
        opened("eurosat", tmp_path, "train", "full")
    (base / "River" / "River_1.jpg").unlink()
    (base / "River").rmdir()
    with pytest.raises(DamagedData, match="9 class folders, expected 10"):
        opened("eurosat", tmp_path, "test", "full")


def test_clevr_counts_objects_from_three(tmp_path):
    miniatures.clevr(tmp_path, [3, 10, 5])
    base = tmp_path / "CLEVR_v1.0"
    first = picture(base / "images" / "val" / "CLEVR_val_000000.png")
    path = base / "scenes" / "CLEVR_val_scenes.json"
    test = opened("clevr", tmp_path, "test", "vtab")
    assert test.labels.tolist() == [0, 7, 2] and (pixels(test, 0) == first).all()
    assert test.class_names[7] == "ten"
    assert "train" in opened("clevr", tmp_path, "train", "vtab").keys[0]
    path.write_text(path.read_text()[:-30])
    with pytest.raises(DamagedData, match="CLEVR_val_scenes"):
        opened("clevr", tmp_path, "test", "vtab")
    path.unlink()
    with pytest.raises(DataNotFound, match="CLEVR_val_scenes"):
        opened("clevr", tmp_path, "test", "vtab")


def test_clevr_of_vtab_has_a_tenth_of_the_published_training_images_for_validation(tmp_path):
    names = [f"CLEVR_train_{i:06d}.png" for i in range(20)]
    for name in names:
        picture(tmp_path / "images" / "train" / name)
    (tmp_path / "scenes").mkdir()
    scenes = [{"image_filename": n, "objects": [{}] * 4} for n in names]
    (tmp_path / "scenes" / "CLEVR_train_scenes.json").write_text(json.dumps({"scenes": scenes}))
    train, val = (
        [key.rpartition("/")[2] for key in opened("clevr", tmp_path, split, "vtab").keys]
        for split in ("train", "val")
    )
    # TensorFlow Datasets hash the split's name and the sample's key, here the file name; VTAB cuts at 90 %.
    order = sorted(names, key=lambda n: hashlib.md5(f"train{n}".encode()).hexdigest())
    assert (train, val) == (sorted(order[:18]), sorted(order[18:]))
    with pytest.raises(DataNotFound, match=r"clevr@draw has no official split 'val'"):
        opened("clevr", tmp_path, "val", "draw")


def test_clevr_draw_takes_the_same_images_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(class_folders, "CLEVR_DRAW", {"train": 2, "test": 2})
    names = [f"CLEVR_val_{i:06d}.png" for i in range(5)]
    miniatures.clevr(tmp_path, [4] * 5)
    best = sorted(names, key=lambda n: hashlib.sha256(f"0:{n}".encode()).hexdigest())[:2]
    keys = opened("clevr", tmp_path, "test", "draw").keys
    assert [k.rpartition("/")[2] for k in keys] == sorted(best)


def test_rendered_sst2_and_country211_serve_their_three_splits(tmp_path):
    for folder, classes, file in (
        ("rendered-sst2", ["negative", "positive"], "0.png"),
        ("country211", CODES, "1.jpg"),
    ):
        miniatures.openai(tmp_path, folder, classes, file)
    for split, part in {"train": "train", "val": "valid", "test": "test"}.items():
        text = opened("rendered_sst2", tmp_path, split)
        assert text.labels.tolist() == [0, 1] and text.class_names == ("negative", "positive")
        last = picture(tmp_path / "rendered-sst2" / part / "positive" / "0.png")
        assert (pixels(text, 1) == last).all()
        country = opened("country211", tmp_path, split)
        assert country.labels.tolist() == list(range(211))
        assert country.keys[210] == f"country211/{part}/{CODES[-1]}/1.jpg"
        last = picture(tmp_path / "country211" / part / CODES[-1] / "1.jpg")
        assert (pixels(country, 210) == last).all()
    assert len(country.class_names) == 211
    (tmp_path / "rendered-sst2" / "test" / "positive" / "0.png").unlink()
    with pytest.raises(DataNotFound, match="positive"):
        opened("rendered_sst2", tmp_path, "test")
    with pytest.raises(DataNotFound, match="country211/test"):
        opened("country211", tmp_path / "nothing", "test")
