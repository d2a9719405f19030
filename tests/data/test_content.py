"""Content ids: the same for one image whatever source it comes from."""

import dataclasses
import hashlib
import io

import numpy as np
import pytest
from PIL import Image
from toy import (
    ColourDataset,
    ColourEncoder,
    probe_suite,
    register,
    register_splits,
    suite,
    task_suite,
)

import rwkvclip_eval as rc
from rwkvclip_eval.data.clip_benchmark import open_clip_benchmark
from rwkvclip_eval.data.content import content_ids
from rwkvclip_eval.data.embedded import open_embedded
from rwkvclip_eval.data.folder import open_folder
from rwkvclip_eval.data.limit import limit_dataset, subset_dataset
from rwkvclip_eval.data.open import open_dataset
from rwkvclip_eval.data.samples import SampleDataset
from rwkvclip_eval.data.types import DatasetInfo, DatasetRef
from rwkvclip_eval.data.webdataset import open_webdataset
from rwkvclip_eval.errors import DataNotFound
from rwkvclip_eval.features.store import image_key

# Picture → class: 3 and 4 occur twice, 4 with two labels.
SAMPLES = [(0, "owl"), (1, "wren"), (3, "owl"), (4, "wren"), (3, "owl"), (4, "owl"), (5, "wren")]
NAMES = ("owl", "wren")


@pytest.fixture
def sources(tmp_path, png, write_shard):
    """Suite entries of the same images as shards, as folders, and by a manifest in reverse order."""
    members, lines = [], ["image,label"]
    for i, (shade, name) in enumerate(SAMPLES):
        members += [(f"{i}.png", png(shade)), (f"{i}.cls", str(NAMES.index(name)).encode())]
        lines.insert(1, f"f{i}.png,{name}")
        for path in (tmp_path / "flat" / f"f{i}.png", tmp_path / "classes" / name / f"x{9 - i}.png"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(shade))
    write_shard(tmp_path / "wds_birds" / "test" / "0.tar", members)
    (tmp_path / "wds_birds" / "classnames.txt").write_text("\n".join(NAMES))
    (tmp_path / "birds.csv").write_text("\n".join(lines))
    templates = ("a red {c}",)
    manifest = {"kind": "manifest", "path": str(tmp_path / "birds.csv"), "root": str(tmp_path / "flat")}
    return {
        "shards": {"name": "wds_birds", "templates": templates},
        "folders": {"name": "f", "folder": str(tmp_path / "classes"), "templates": templates},
        "manifest": {"name": "m", "source": manifest, "templates": templates},
    }


def opened(entry, tmp_path):
    return open_dataset(DatasetRef(**entry), data_root=tmp_path, cache_dir=tmp_path / "cache")


def told_by_pixels(content):
    image = Image.open(io.BytesIO(content)).convert("RGB")
    return f"px-{hashlib.sha256(f'{image.size} '.encode() + image.tobytes()).hexdigest()[:32]}"


def test_an_image_has_one_id_in_shards_folders_and_by_a_manifest(tmp_path, sources, png):
    datasets = {name: opened(entry, tmp_path) for name, entry in sources.items()}
    ids = {name: content_ids(dataset, tmp_path / "cache") for name, dataset in datasets.items()}
    assert len({tuple(found) for found in ids.values()}) == 3  # Each source has its own order.
    label_of = [dict(zip(ids[n], d.labels.tolist(), strict=True)) for n, d in datasets.items()]
    assert label_of[0] == label_of[1] == label_of[2]
    assert len(label_of[0]) == len(SAMPLES)
    digest = [told_by_pixels(png(shade)) for shade in range(6)]
    # Repeats are numbered by what they are said to show, then in the order of the split.
    fourth = [ids["shards"][3], ids["shards"][5]]
    assert fourth == [f"{digest[4]}#2", digest[4]]
    assert [ids["shards"][2], ids["shards"][4]] == [digest[3], f"{digest[3]}#2"]
    assert ids["shards"][0] == digest[0]


def test_runs_over_different_sources_are_paired_by_content(tmp_path, sources):
    tables = []
    for entry in sources.values():
        results = rc.evaluate(ColourEncoder(), suite(entry), data_root=tmp_path)
        (predictions,) = results.predictions.values()
        assert predictions["predictions"].column_names[:3] == ["key", "content_id", "label"]
        tables.append({row.pop("content_id"): row for row in predictions["predictions"].to_pylist()})
    keys = [sorted(row.pop("key") for row in table.values()) for table in tables]
    assert keys[0] != keys[1] != keys[2]
    assert tables[0] == tables[1] == tables[2]


def test_files_are_read_once_and_what_was_kept_is_checked(tmp_path, sources, monkeypatch):
    dataset, cache = opened(sources["folders"], tmp_path), tmp_path / "cache"
    ids, reads = content_ids(dataset, cache), []
    kind = type(dataset.images)
    read = kind.read
    monkeypatch.setattr(kind, "read", lambda self, i: reads.append(i) or read(self, i))
    assert content_ids(dataset, cache) == ids and reads == []
    (kept,) = (cache / "data").glob("*.content")
    text = kept.read_text()
    for damaged in (text[:-5], text.replace(ids[0], "0" * 32), "", "no digests\n"):
        reads.clear()
        kept.write_text(damaged)
        assert content_ids(dataset, cache) == ids
        assert reads == list(range(len(SAMPLES)))
        assert kept.read_text() == text
    # A dataset of a user's own may give one fingerprint to two sets of samples.
    renamed = dataclasses.replace(dataset, keys=[f"other {key}" for key in dataset.keys])
    assert content_ids(renamed, cache) == ids and len(reads) == 2 * len(SAMPLES)


def test_ids_do_not_need_a_cache_that_can_be_written(tmp_path, sources):
    dataset = opened(sources["shards"], tmp_path)
    (tmp_path / "file").write_text("no folder")
    assert content_ids(dataset, tmp_path / "file") == content_ids(dataset, tmp_path / "cache")


def test_an_image_that_cannot_be_read_now_has_no_id_and_is_tried_again(tmp_path, sources, monkeypatch):
    dataset, cache = opened(sources["folders"], tmp_path), tmp_path / "cache"
    kind = type(dataset.images)
    read = kind.read

    def failing(self, index):
        if index == 2:
            raise DataNotFound("the disk went away")
        return read(self, index)

    whole = content_ids(dataset, tmp_path / "other")
    monkeypatch.setattr(kind, "read", failing)
    found = content_ids(dataset, cache)
    assert found[2] is None
    assert [i for i, one in enumerate(found) if one is None] == [2]
    reads = []
    monkeypatch.setattr(kind, "read", lambda self, i: reads.append(i) or read(self, i))
    assert content_ids(dataset, cache) == whole and reads == [2]


class PixelReader:
    def __init__(self, *images):
        self.images = images

    def read(self, index):
        return self.images[index]

    def where(self, index):
        return "memory"


def pixels(*images):
    n = len(images)
    info = DatasetInfo(name="p", kind="classification", num_samples=n, fingerprint=str(n))
    keys = [str(i) for i in range(n)]
    return SampleDataset(
        info=info, keys=keys, labels=np.zeros(n, int), captions=None, images=PixelReader(*images)
    )


def test_images_without_a_file_are_told_by_size_and_colours(tmp_path):
    grey, wide, tall = Image.new("L", (4, 4), 7), Image.new("L", (8, 2), 7), Image.new("L", (2, 8), 7)
    one, other = (Image.new("P", (2, 2)) for _ in range(2))
    one.putpalette([255, 0, 0] * 256)
    other.putpalette([0, 255, 0] * 256)
    ids = content_ids(pixels(grey, wide, tall, grey.convert("RGB"), grey.copy(), one, other), tmp_path)
    assert [i for i, one in enumerate(ids) if "#" in one] == [3, 4]
    assert ids[3:5] == [f"{ids[0]}#2", f"{ids[0]}#3"]
    assert all(one.startswith("px-") for one in ids)


def test_files_without_loss_have_the_id_of_their_pixels_and_others_that_of_their_bytes(tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))
    palette = picture.quantize(16)
    (expected, quantized) = content_ids(pixels(picture, palette), tmp_path)

    def stored(image, form, **options):
        stream = io.BytesIO()
        image.save(stream, form, **options)
        return stream.getvalue()

    exact = [("PNG", {"compress_level": level}) for level in (0, 9)]
    exact += [("WEBP", {"lossless": True}), ("BMP", {}), ("PPM", {}), ("TIFF", {})]
    for number, (form, options) in enumerate(exact):
        assert content_ids(pixels(stored(picture, form, **options)), tmp_path / str(number)) == [expected]
    assert content_ids(pixels(stored(palette, "PNG")), tmp_path / "p") == [quantized]
    lossy = [stored(picture, "JPEG"), stored(picture, "WEBP", quality=90), stored(picture, "JPEG2000")]
    damaged = stored(picture, "PNG")[:60]
    found = content_ids(pixels(*lossy, damaged), tmp_path / "lossy")
    assert found == [hashlib.sha256(content).hexdigest()[:32] for content in (*lossy, damaged)]


def test_a_source_that_decodes_gives_the_bytes_of_files_it_knows(tmp_path, png):
    shades = {"a/abbey/sun_b.jpg": 0, "a/abbey/sun_a.jpg": 90, "z/zoo/sun_c.jpg": 200}
    for name, shade in shades.items():
        path = tmp_path / "SUN397" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(shade, format="JPEG"))
    (tmp_path / "SUN397" / "ClassName.txt").write_text("/a/abbey\n/z/zoo\n")
    split = open_clip_benchmark("sun397", tmp_path, "test", cache_dir=tmp_path / "cache")
    info = DatasetInfo(name="s", kind="classification", num_samples=3, fingerprint=split.fingerprint)
    dataset = SampleDataset(
        info=info, keys=split.keys, labels=split.labels, captions=None, images=split.images
    )
    expected = [hashlib.sha256(png(shade, format="JPEG")).hexdigest()[:32] for shade in (90, 0, 200)]
    assert content_ids(dataset, tmp_path / "cache") == expected


def test_a_limited_run_gives_the_ids_of_the_whole(tmp_path, sources):
    dataset = opened(sources["shards"], tmp_path)
    whole = content_ids(dataset, tmp_path / "cache")
    part = subset_dataset(limit_dataset(dataset, 4), [0, 3])
    places = [dataset.keys.index(key) for key in part.keys]
    assert content_ids(part, tmp_path / "cache") == [(whole[i] or "").partition("#")[0] for i in places]


def test_damaged_images_move_no_id(monkeypatch, tmp_path):
    monkeypatch.setenv("RWKVCLIP_EVAL_CACHE", str(tmp_path))
    found = []
    for damaged in ((), (1, 7)):
        register(monkeypatch, colours=ColourDataset(damaged=damaged))
        results = rc.evaluate(ColourEncoder(), suite("colours"), allow_missing=2)
        (tables,) = results.predictions.values()
        frame = tables["predictions"].to_pandas()
        assert frame["content_id"].notna().all() and frame["content_id"].is_unique
        found.append(dict(zip(frame["key"], frame["content_id"], strict=True)))
    whole, part = found
    assert len(part) == len(whole) - 2
    assert part.items() < whole.items()


def test_every_table_of_samples_has_the_id_beside_the_key(monkeypatch, tmp_path):
    monkeypatch.setenv("RWKVCLIP_EVAL_CACHE", str(tmp_path))
    train, test = ColourDataset(n=60), ColourDataset()
    register_splits(monkeypatch, train=train, test=test)
    few = {"task": "few_shot_linear_probe", "options": {"shots": [1], "num_seeds": 1, "C": 1.0}}
    linear = {"task": "linear_probe", "options": {"C": 1.0}}
    tasks = task_suite("zero_shot_classification", linear, few, "knn_probe")
    names = set()
    tables = [rc.evaluate(ColourEncoder(), tasks).predictions.values()]
    captioned = ColourDataset(captions=[["a red picture", "green"][: 1 + i % 2] for i in range(30)])
    captioned.labels, captioned.info = None, dataclasses.replace(captioned.info, kind="retrieval")
    register(monkeypatch, colours=captioned)
    tables.append(rc.evaluate(ColourEncoder(), task_suite("zero_shot_retrieval")).predictions.values())
    ids = dict(zip(test.keys, content_ids(test), strict=True))
    for unit in (unit for units in tables for unit in units):
        for name, table in unit.items():
            if "key" not in table.column_names:
                continue
            names.add(name)
            assert table.column_names[:2] == ["key", "content_id"]
            rows = zip(table["key"].to_pylist(), table["content_id"].to_pylist(), strict=True)
            assert all(ids[key] == content_id for key, content_id in rows)
    assert names >= {"predictions", "image_to_text", "text_to_image"}


def test_predictions_on_disk_have_the_id_and_features_of_before_get_it(monkeypatch, tmp_path):
    register_splits(monkeypatch, train=ColourDataset(n=60), test=ColourDataset())
    options = rc.RunOptions(cache_dir=tmp_path / "cache")
    model = "python:toy_factory:make"
    rc.run_suite(probe_suite(), [model], tmp_path / "first", options=options)
    for path in (tmp_path / "cache" / "data").glob("*.content"):
        path.unlink()
    summary = rc.run_suite(probe_suite(), [model], tmp_path / "again", options=options)
    frame = rc.load_predictions(tmp_path / "again", summary.records[0].unit)
    assert frame["content_id"].str.startswith("px-").all()
    assert list((tmp_path / "cache" / "data").glob("*.content"))


def test_fingerprints_and_store_keys_are_those_of_before(tmp_path, write_shard):
    known = {
        "digits": "0a36b7cabc7c88431e19f059b381708fabfadab4286decb24d231032eebe1606",
        "digits_scenes": "bd080593a6e96d220ff2afac3326d195d2cc3d492d8ae4bd5ceeda8317c72f96",
    }
    for name, fingerprint in known.items():
        assert open_embedded(name, "test").fingerprint == fingerprint
    key = "8a2379ad4bd9ad3e97fc47e0d18b2d67bc5548b0bba3ee711ca991ab2d66d1b2"
    assert image_key(ColourEncoder().info, known["digits"]) == key
    limited = limit_dataset(ColourDataset(), 6).info.fingerprint
    assert limited == "7af829223639a504ba09a5782e5eb7a39513864b99fc953854c983d135cfb89b"
    members = []
    for i, name in enumerate(("owl", "wren")):
        (tmp_path / "birds" / name).mkdir(parents=True)
        (tmp_path / "birds" / name / "0.png").write_bytes(name.encode())
        members += [(f"{name}.png", name.encode()), (f"{name}.cls", str(i).encode())]
    folders = open_folder(tmp_path / "birds", "test", cache_dir=tmp_path / "cache")
    assert folders.fingerprint == "34d00f8a0e4803d0ec2490ce72ce49c2077e05a7f2b3a45fc365719a5373b570"
    write_shard(tmp_path / "wds_x" / "test" / "0.tar", members)
    shards = open_webdataset(tmp_path / "wds_x", "test")
    assert shards.fingerprint == "3663392070fc8c54f092ad31feffded2611bb22f99a8be3f30e21f02567c94dc"
