"""`data prepare` through the command line on every published format of the catalogue."""

import dataclasses

import array_miniatures as arrays
import captioned_miniatures as captioned
import miniatures as files
import numpy as np
import pytest
from clip_benchmark.datasets.builder import all_imagenet_wordnet_ids

from rwkvclip_eval.data.catalogue import catalogue
from rwkvclip_eval.data.content import content_ids
from rwkvclip_eval.data.formats import READERS, class_folders, drawn_splits, reader_of
from rwkvclip_eval.data.open import open_dataset
from rwkvclip_eval.data.samples import decode_image
from rwkvclip_eval.data.types import DatasetRef


def named(count):
    return [f"class_{i:03d}" for i in range(count)]


def food101(root):
    parts = {"train": ("1", "2"), "test": ("3",)}
    files.food101(root, {s: {c: [f"{c}/{n}" for n in n_s] for c in named(101)} for s, n_s in parts.items()})


def birdsnap(root):
    images = [(f"bird_{i:03d}/{n}.jpg", i) for i in range(1, 501) for n in (1, 2)]
    test = [path for path, _ in images if path.endswith("/2.jpg")]
    species = [(i, f"bird {i:03d}") for i in range(1, 501)]
    files.birdsnap(root, species, images, test, lost=["bird_007/2.jpg"])


def aircraft(root):
    parts = {"train": 1, "val": 2, "test": 3}
    lists = {s: [(f"{n}{i:03d}", f"A{i:03d} x") for i in range(100)] for s, n in parts.items()}
    files.aircraft(root, [f"A{i:03d} x" for i in range(100)], lists)


def pets(root):
    numbers = range(1, 38)
    files.pets(root, [f"pet_{i}_1 {i} 1 1" for i in numbers], [f"pet_{i}_2 {i} 1 1" for i in numbers])


def cars(root):
    rows = [(1, 2, 3, 4, i, f"{i:05d}.jpg") for i in range(1, 197)]
    files.cars(root, named(196), rows, rows[:100])


def flowers(root):
    labels = [1 + i % 102 for i in range(306)]
    numbers = list(range(1, 307))
    files.flowers(root, labels, {"trnid": numbers[:102], "valid": numbers[102:204], "tstid": numbers[204:]})


SUN_CLASSES = [f"{c[6]}/{c}" for c in named(397)]


def sun397(root):
    images = [f"{c}/sun_{n}.jpg" for c in SUN_CLASSES for n in "ab"]
    lists = {"Training_01.txt": images[::2], "Testing_01.txt": images[1::2]}
    files.sun397(root, SUN_CLASSES, images, lists)


def ucf101(root):
    videos = {n: [f"{c}/v_{c}_g{n:02d}_c01.avi" for c in named(101)] for n in (1, 2, 3)}
    lists = {}
    for n in (1, 2, 3):
        lists[f"testlist0{n}"] = videos[n]
        lists[f"trainlist0{n}"] = [v for m in (1, 2, 3) if m != n for v in videos[m]]
    files.ucf101(root, named(101), lists)


def kinetics700(root):
    lists, frames = {}, []
    for start, (file, split) in enumerate((("train", "train"), ("validate", "validate"))):
        lists[file] = [f"{c},{i:011d},{start},{start + 10},{split}" for i, c in enumerate(named(700))]
        frames += [f"{i:011d}_{start:06d}_{start + 10:06d}.jpg" for i in range(0, 700, 3)]
    files.kinetics700(root, lists, frames)


def hateful_memes(root):
    rows = [{"id": i, "img": f"img/{i:05d}.png", "label": i % 2, "text": "x"} for i in range(5)]
    files.hateful_memes(root, {"train": rows[:3], "dev_seen": rows[3:]})


def imagenet(root):
    files.imagenet_devkit(root)
    files.pictures(root / "val", files.IMAGENET_VAL)
    files.pictures(root / "train", [f"{w}/{w}_1.JPEG" for w in files.SYNSETS[:5]])


def imagenet_v2(root):
    for folder in ("matched-frequency", "threshold0.7", "top-images"):
        base = root / f"imagenetv2-{folder}-format-val"
        files.class_folders(base, map(str, range(0, 1000, 100)), ["a.jpeg", "b.jpeg"])


def objectnet(root):
    folders = {name: name.replace("_", " ").capitalize() for name in named(120)}
    files.objectnet(root, folders, {label: "x" for label in list(folders.values())[:113]})


def tiny_imagenet(root):
    wnids = sorted(all_imagenet_wordnet_ids[::5])
    files.tiny_imagenet(root, wnids[::-1], wnids)


def wnid_folders(folder, wnids, suffix):
    return lambda root: files.class_folders(root / folder, wnids, [f"{{c}}_1.{suffix}"])


def satellite(folder, classes):
    return lambda root: files.class_folders(root / folder, classes, [f"{{c}}_{i}.jpg" for i in range(1, 6)])


EUROSAT = satellite("2750", files.EUROSAT)
RESISC45 = satellite("NWPU-RESISC45", named(45))

CASES = {
    "food101": (food101, {"train": 202, "test": 101}),
    "birdsnap": (birdsnap, {"train": 500, "test": 499}),
    "sun397@partition1": (sun397, {"train": 397, "test": 397}),
    "sun397@full": (sun397, {"test": 794}),
    "sun397@seed5": (sun397, {"train": 400, "test": 300}),
    "cars": (cars, {"train": 196, "test": 100}),
    "aircraft": (aircraft, {"train": 100, "val": 100, "test": 100}),
    "voc2007": (files.voc2007, {"train": 2, "val": 1, "test": 3}),
    "voc2007@with-difficult": (files.voc2007, {"train": 2, "val": 1, "test": 3}),
    "voc2007@crops": (files.voc2007, {"train": 3, "val": 2, "test": 3}),
    "dtd": (lambda root: files.dtd(root, named(47)), {"train": 47, "val": 47, "test": 47}),
    "pets": (pets, {"train": 37, "test": 37}),
    "caltech101@seed3072": (files.caltech101, {"train": 100, "test": 133}),
    "caltech101@seed7": (files.caltech101, {"train": 100, "test": 133}),
    "caltech101@30-per-class": (files.caltech101, {"train": 232, "test": 3}),
    "flowers": (flowers, {"train": 102, "val": 102, "test": 102}),
    "imagenet": (imagenet, {"train": 5, "test": 3}),
    "kitti": (files.kitti, {"train": 24, "val": 3, "test": 3}),
    "ucf101": (ucf101, {"train": 202, "test": 101}),
    "ucf101@list02": (ucf101, {"train": 202, "test": 101}),
    "ucf101@list03": (ucf101, {"train": 202, "test": 101}),
    "kinetics700": (kinetics700, {"train": 234, "test": 234}),
    "hateful_memes": (hateful_memes, {"train": 3, "test": 2}),
    "imagenet_v2@matched-frequency": (imagenet_v2, {"test": 20}),
    "imagenet_v2@threshold-0.7": (imagenet_v2, {"test": 20}),
    "imagenet_v2@top-images": (imagenet_v2, {"test": 20}),
    "imagenet_a": (wnid_folders("imagenet-a", files.wnids_of("imagenet_a"), "jpg"), {"test": 200}),
    "imagenet_r": (wnid_folders("imagenet-r", files.wnids_of("imagenet_r"), "jpg"), {"test": 200}),
    "imagenet_sketch": (wnid_folders("sketch", all_imagenet_wordnet_ids, "JPEG"), {"test": 1000}),
    "objectnet": (objectnet, {"test": 226}),
    "objectnet@cropped": (objectnet, {"test": 226}),
    "flickr30k": (lambda root: captioned.flickr(root, "flickr30k"), {"train": 1, "val": 1, "test": 2}),
    "flickr8k": (lambda root: captioned.flickr(root, "flickr8k"), {"train": 1, "val": 1, "test": 2}),
    "mscoco_captions": (captioned.coco, {"train": 1, "val": 1, "test": 1}),
    "mscoco_captions@restval": (captioned.coco, {"train": 2, "val": 1, "test": 1}),
    "tiny_imagenet": (tiny_imagenet, {"train": 400, "test": 200}),
    "cifar10": (arrays.cifar10, {"train": 20, "test": 4}),
    "cifar100": (arrays.cifar100, {"train": 4, "test": 4}),
    "mnist": (arrays.mnist, {"train": 3, "test": 3}),
    "stl10": (arrays.stl10, {"train": 4, "test": 4}),
    "stl10@fold0": (arrays.stl10, {"train": 2, "test": 4}),
    "fer2013@official": (arrays.fer2013, {"train": 2, "val": 1, "test": 1}),
    "fer2013@clip-benchmark": (arrays.fer2013, {"train": 2, "test": 2}),
    "pcam": (arrays.pcam, {"train": 3, "val": 3, "test": 3}),
    "gtsrb": (files.gtsrb, {"train": 2, "test": 2}),
    "gtsrb@full": (files.gtsrb, {"train": 1, "test": 2}),
    "eurosat@draw": (EUROSAT, {"train": 20, "test": 30}),
    "eurosat@vtab": (EUROSAT, {"train": 30, "val": 10, "test": 10}),
    "eurosat@full": (EUROSAT, {"test": 50}),
    "resisc45@draw": (RESISC45, {"train": 90, "test": 135}),
    "resisc45@vtab": (RESISC45, {"train": 135, "val": 45, "test": 45}),
    "clevr@draw": (lambda root: files.clevr(root, [3, 10, 5]), {"train": 2, "test": 2}),
    "clevr@vtab": (lambda root: files.clevr(root, [3, 10, 5]), {"train": 2, "val": 1, "test": 3}),
    "rendered_sst2": (
        lambda root: files.openai(root, "rendered-sst2", ["negative", "positive"], "0.png"),
        {"train": 2, "val": 2, "test": 2},
    ),
    "country211": (
        lambda root: files.openai(root, "country211", files.COUNTRIES, "1.jpg"),
        {"train": 211, "val": 211, "test": 211},
    ),
}
"""Name → writer of the published files, and the images each split then has."""


@pytest.fixture
def small_draws(monkeypatch):
    """Draws the sizes of which fit miniatures."""
    monkeypatch.setattr(class_folders, "EUROSAT_DRAW", {"train": (0, 2), "test": (2, 5)})
    monkeypatch.setattr(class_folders, "RESISC45_DRAW", {"train": (0, 2), "test": (2, 5)})
    monkeypatch.setattr(class_folders, "CLEVR_DRAW", {"train": 2, "test": 2})
    monkeypatch.setattr(drawn_splits, "SUN397_DRAW", (400, 300, 94))
    monkeypatch.setattr(drawn_splits, "CALTECH101_DRAW", (100, 133))


def test_every_published_format_of_the_catalogue_has_a_case():
    wanted = set()
    for name in READERS:
        for variant in catalogue()[name].variants:
            wanted.add(name if variant == "default" else f"{name}@{variant}")
    # Which images VTAB tests on cannot be told from Caltech's folders: shards only.
    wanted -= {"caltech101@clip-benchmark", "caltech101@seed*", "sun397@seed*"}
    assert wanted <= set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_published_files_become_shards_that_open_as_the_catalogue_says(tmp_path, small_draws, run, name):
    write, counts = CASES[name]
    source, data_root = tmp_path / "published", tmp_path / "data"
    write(source)
    code, out, err = run("data", "prepare", name, "--from", source, "--data-root", data_root)
    assert (code, err) == (0, "")
    record, _, variant = name.partition("@")
    entry = catalogue()[record]
    made = sorted(path.name for path in next(data_root.glob("wds_*")).iterdir() if path.is_dir())
    assert made == sorted(counts)
    for split, count in counts.items():
        ref = DatasetRef(name=record, variant=variant or None, split=split)
        back = open_dataset(ref, data_root=data_root, cache_dir=tmp_path)
        first = reader_of(record)(source, split, back.info.variant, tmp_path / "cache")
        assert back.info.source.startswith("webdataset wds_")
        assert (len(back), back.info.kind) == (count, entry.kind_of(back.info.variant))
        assert (back.info.variant, back.info.split) == (variant or "default", split)
        if back.captions is not None:
            assert back.captions == [[" ".join(c.split("\n")) for c in each] for each in first.captions]
        else:
            assert back.labels.tolist() == first.labels.tolist()
            assert len(back.info.class_names) == entry.classes_of(back.info.variant)
            assert first.class_names is None or back.info.class_names == first.class_names
            assert back.info.templates
        for i in {0, count // 2, count - 1}:
            original = decode_image(first.images.read(i), first.images.where(i))
            assert (np.asarray(back.image(i)) == np.asarray(original)).all()
        published = dataclasses.replace(back, images=first.images)
        assert content_ids(published, tmp_path / "one") == content_ids(back, tmp_path / "other")
    code, out, err = run("data", "verify", name, "--data-root", data_root)
    assert (code, err) == (0, "")
    assert f"{name}:test: a subset; {counts['test']} images of webdataset wds_" in out
