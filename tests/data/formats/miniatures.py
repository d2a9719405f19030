"""Writers of miniatures in the on-disk formats of published datasets, one image per file.

Each writes below `root` what the authors' archives unpack to: their folder names, lists and label files. What
is in them is the caller's: a few samples written by hand, or one of every class.
"""

from __future__ import annotations

import ast
import inspect
import io
import itertools
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.io
from PIL import Image

from rwkvclip_eval.data.formats.voc2007 import CLASSES as VOC_CLASSES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

SHADES = itertools.count()

FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".ppm": "PPM"}


def picture(path: Path) -> np.ndarray:
    """Write a small picture of its own colour in the format of the path's ending; return its pixels."""
    shade = next(SHADES)
    stream = io.BytesIO()
    colour = (shade % 256, shade // 256 % 256, 7)
    Image.new("RGB", (8, 8), colour).save(stream, FORMATS[path.suffix.lower()])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(stream.getvalue())
    return np.asarray(Image.open(stream).convert("RGB"))


def pictures(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        picture(folder / name)


def write(path: Path, text: str, newline: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, newline=newline, encoding="utf-8")


def lines(texts: Iterable[str]) -> str:
    return "".join(f"{text}\n" for text in texts)


def food101(root: Path, lists: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
    """`lists` is split → class → images `CLASS/NUMBER`."""
    base = root / "food-101"
    pictures(base / "images", [f"{i}.jpg" for s in lists.values() for images in s.values() for i in images])
    for split, classes in lists.items():
        write(base / "meta" / f"{split}.json", json.dumps(classes))
    write(base / "meta" / "classes.txt", lines(sorted(lists["train"])))


def birdsnap(
    root: Path,
    species: Iterable[tuple[int, str]],
    images: Sequence[tuple[str, int]],
    test: Sequence[str],
    lost: Sequence[str] = (),
) -> None:
    """Release 1.1: ids and names of species, paths and ids of images; `lost` ones could not be fetched."""
    base = root / "birdsnap"
    rows = [f"{i}\t{name}\tAvis {i}\t{name.replace(' ', '_')}" for i, name in species]
    write(base / "species.txt", lines(["id\tcommon\tscientific\tdir", *rows]))
    rows = [f"http://farm.example/{p}\t0123\t{p}\t{i}\t1\t2\t3\t4\tnull\tnull" for p, i in images]
    header = "url\tmd5\tpath\tspecies_id\tbb_x1\tbb_y1\tbb_x2\tbb_y2\tback_x\tback_y"
    write(base / "images.txt", lines([header, *rows]))
    write(base / "test_images.txt", lines(["path", *test]))
    pictures(base / "download" / "images", [path for path, _ in images if path not in lost])


def aircraft(root: Path, variants: Sequence[str], lists: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """`lists` is split → (number, variant)."""
    data = root / "fgvc-aircraft-2013b" / "data"
    pictures(data / "images", [f"{number}.jpg" for pairs in lists.values() for number, _ in pairs])
    write(data / "variants.txt", lines(variants))
    for split, pairs in lists.items():
        write(data / f"images_variant_{split}.txt", lines(f"{n} {v}" for n, v in pairs))
    both = [*lists["train"], *lists["val"]]
    write(data / "images_variant_trainval.txt", lines(f"{n} {v}" for n, v in both))


def dtd(root: Path, classes: Sequence[str]) -> None:
    """One image of each class in each split, as torchvision unpacks it; the second partition is another."""
    base = root / "dtd" / "dtd"
    names = [f"{c}/{c}_{n:04d}.jpg" for c in classes for n in (2, 4, 5)]
    pictures(base / "images", names)
    for i, split in enumerate(("train", "val", "test")):
        write(base / "labels" / f"{split}1.txt", lines(names[i::3]))
        write(base / "labels" / f"{split}2.txt", lines(names[(i + 1) % 3 :: 3]))


def pets(root: Path, trainval: Sequence[str], test: Sequence[str]) -> None:
    """Lines `IMAGE CLASS SPECIES BREED` of both lists."""
    base = root / "oxford-iiit-pet"
    pictures(base / "images", [f"{line.split()[0]}.jpg" for line in (*trainval, *test)])
    write(base / "annotations" / "trainval.txt", lines(trainval))
    write(base / "annotations" / "test.txt", lines(test))


BOX = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"]


def structs(rows: Sequence[tuple[Any, ...]], fields: Sequence[str]) -> np.ndarray:
    """Return MATLAB's 1×n struct array."""
    array = np.empty((1, len(rows)), dtype=[(f, object) for f in fields])
    for i, row in enumerate(rows):
        array[0, i] = row
    return array


def cars(
    root: Path, names: Sequence[str], train: Sequence[tuple[Any, ...]], test: Sequence[tuple[Any, ...]]
) -> None:
    """Class names, and rows of four box corners, class number from 1 and file name."""
    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    cells = np.empty((1, len(names)), dtype=object)
    cells[0, :] = names
    scipy.io.savemat(base / "devkit" / "cars_meta.mat", {"class_names": cells})
    fields = [*BOX, "class", "fname"]
    scipy.io.savemat(base / "devkit" / "cars_train_annos.mat", {"annotations": structs(train, fields)})
    scipy.io.savemat(base / "cars_test_annos_withlabels.mat", {"annotations": structs(test, fields)})
    unlabelled = structs([(*row[:4], row[5]) for row in test], [*BOX, "fname"])
    scipy.io.savemat(base / "devkit" / "cars_test_annos.mat", {"annotations": unlabelled})
    pictures(base / "cars_train", [row[5] for row in train])
    pictures(base / "cars_test", [row[5] for row in test])


def flowers(root: Path, labels: Sequence[int], splits: Mapping[str, Sequence[int]]) -> None:
    """Labels and image numbers from 1; the .mat files hold rows of small integers as published."""
    base = root / "flowers-102"
    pictures(base / "jpg", [f"image_{n:05d}.jpg" for n in range(1, len(labels) + 1)])
    scipy.io.savemat(base / "imagelabels.mat", {"labels": np.array([labels], dtype=np.uint8)})
    numbers = {name: np.array([rows], dtype=np.uint16) for name, rows in splits.items()}
    scipy.io.savemat(base / "setid.mat", numbers)


def sun397(
    root: Path, classes: Sequence[str], images: Iterable[str], partitions: Mapping[str, Sequence[str]]
) -> None:
    """Classes and images such as `a/abbey` and `a/abbey/sun_b.jpg`; partition file → images."""
    pictures(root / "SUN397", images)
    write(root / "SUN397" / "ClassName.txt", lines(f"/{c}" for c in classes))
    for file, listed in partitions.items():
        # The authors' lists end their lines either way.
        newline = "\r\n" if file.startswith("Testing") else None
        write(root / "Partitions" / file, lines(f"/{image}" for image in listed), newline)


CALTECH101_NAMES = """
BACKGROUND_Google Faces Faces_easy Leopards Motorbikes accordion airplanes anchor ant barrel bass beaver
binocular bonsai brain brontosaurus buddha butterfly camera cannon car_side ceiling_fan cellphone chair
chandelier cougar_body cougar_face crab crayfish crocodile crocodile_head cup dalmatian dollar_bill
dolphin dragonfly electric_guitar elephant emu euphonium ewer ferry flamingo flamingo_head garfield
gerenuk gramophone grand_piano hawksbill headphone hedgehog helicopter ibis inline_skate joshua_tree
kangaroo ketch lamp laptop llama lobster lotus mandolin mayfly menorah metronome minaret nautilus
octopus okapi pagoda panda pigeon pizza platypus pyramid revolver rhino rooster saxophone schooner
scissors scorpion sea_horse snoopy soccer_ball stapler starfish stegosaurus stop_sign strawberry
sunflower tick trilobite umbrella watch water_lilly wheelchair wild_cat windsor_chair wrench yin_yang
"""
CALTECH101_FOLDERS = CALTECH101_NAMES.split()
"""The folders of 101_ObjectCategories in the order of their bytes."""


def caltech101(root: Path) -> None:
    """All folders with two images each; leopards have 33, and the background a file without ending."""
    base = root / "101_ObjectCategories"
    for folder in CALTECH101_FOLDERS:
        count = 33 if folder == "Leopards" else 2
        pictures(base / folder, [f"image_{n:04d}.jpg" for n in range(1, count + 1)])
    (base / "BACKGROUND_Google" / "tmp").write_bytes(b"")


def ucf101(root: Path, classes: Sequence[str], lists: Mapping[str, Sequence[str]]) -> None:
    """List file (`trainlist01`) → videos `FOLDER/v_….avi`; the frames of all of them, not the videos."""
    folder = root / "ucfTrainTestlist"
    write(folder / "classInd.txt", lines(f"{i} {c}" for i, c in enumerate(classes, start=1)))
    for file, videos in lists.items():
        if file.startswith("train"):
            rows = [f"{video} {classes.index(video.split('/')[0]) + 1}" for video in videos]
            write(folder / f"{file}.txt", lines(rows), newline="\r\n")
        else:
            write(folder / f"{file}.txt", lines(videos))
    stems = {video.split("/")[1].removesuffix(".avi") for videos in lists.values() for video in videos}
    pictures(root / "frames", [f"{stem}.jpg" for stem in sorted(stems)])


def kinetics700(
    root: Path, lists: Mapping[str, Sequence[str]], frames: Iterable[str], folder: str = "kinetics700"
) -> None:
    """CSV file (`validate`) → rows of label, id, start, end, split; frames below the folder of them.

    The lists lie in the folder that their archive unpacks to.
    """
    for file, rows in lists.items():
        write(root / folder / f"{file}.csv", lines(["label,youtube_id,time_start,time_end,split", *rows]))
    pictures(root / "frames", frames)


def hateful_memes(root: Path, lists: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """File (`train`) → rows."""
    for file, rows in lists.items():
        pictures(root, [row["img"] for row in rows])
        write(root / f"{file}.jsonl", lines(map(json.dumps, rows)))


def kitti_line(kind: str, depth: str) -> str:
    """One object in KITTI's label format; `depth` is its location's third number."""
    return f"{kind} 0.00 0 -0.20 712.40 143.00 810.73 307.92 1.89 0.48 1.20 1.84 1.47 {depth} 0.01\n"


def kitti(root: Path) -> None:
    """Thirty images of ten drives; image i is of drive i % 10 and i metres from a car."""
    for i in range(30):
        picture(root / "training" / "image_2" / f"{i:06d}.png")
        write(root / "training" / "label_2" / f"{i:06d}.txt", kitti_line("Car", f"{i}.50"))
    # Line j of the mapping is image (j - 1) * 7 % 30's frame: train_rand gives each image its line, from 1.
    place = {j * 7 % 30: j + 1 for j in range(30)}
    drives = [f"2011_09_26 2011_09_26_drive_{j * 7 % 30 % 10:04d}_sync {j:010d}" for j in range(30)]
    write(root / "mapping" / "train_mapping.txt", lines(drives))
    write(root / "mapping" / "train_rand.txt", ",".join(str(place[i]) for i in range(30)))


VOC_OBJECT = """\t<object>
\t\t<name>{name}</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>0</truncated>
\t\t<difficult>{difficult}</difficult>
\t\t<bndbox>
\t\t\t<xmin>{box[0]}</xmin>
\t\t\t<ymin>{box[1]}</ymin>
\t\t\t<xmax>{box[2]}</xmax>
\t\t\t<ymax>{box[3]}</ymax>
\t\t</bndbox>
{part}\t</object>
"""
VOC_HEAD = """\t<part>
\t\t<name>head</name>
\t\t<bndbox>
\t\t\t<xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax>
\t\t</bndbox>
\t</part>
"""
VOC_IMAGES = {
    "train": {
        "000012": [("car", 0, (2, 3, 9, 8))],
        "000017": [("horse", 0, (1, 1, 5, 6)), ("person", 1, (4, 4, 8, 9))],
    },
    "val": {"000005": [("chair", 0, (1, 2, 4, 7)), ("chair", 1, (6, 2, 9, 5))]},
    "test": {
        "000001": [("dog", 0, (2, 4, 8, 9)), ("person", 0, (1, 1, 6, 6))],
        "000002": [("train", 1, (3, 3, 9, 9))],
        "000003": [],
    },
}
"""Split → image → objects: class, difficult, box."""


def voc2007(root: Path) -> None:
    """Both archives unpacked; each image is a ramp, so that crops of it differ."""
    base = root / "VOCdevkit" / "VOC2007"
    sets = base / "ImageSets" / "Main"
    (base / "JPEGImages").mkdir(parents=True)
    for split, images in VOC_IMAGES.items():
        write(sets / f"{split}.txt", lines(images))
        for name in VOC_CLASSES:
            flags = {i: [d for n, d, _ in objects if n == name] for i, objects in images.items()}
            said = {i: -1 if not f else 1 if 0 in f else 0 for i, f in flags.items()}
            write(sets / f"{name}_{split}.txt", lines(f"{i} {value:2d}" for i, value in said.items()))
        for image, objects in images.items():
            ramp = np.arange(12 * 10 * 3, dtype=np.uint8).reshape(12, 10, 3) + int(image)
            Image.fromarray(ramp).save(base / "JPEGImages" / f"{image}.jpg", quality=95)
            body = "".join(
                VOC_OBJECT.format(name=n, difficult=d, box=b, part=VOC_HEAD if n == "person" else "")
                for n, d, b in objects
            )
            head = f"\t<folder>VOC2007</folder>\n\t<filename>{image}.jpg</filename>\n"
            write(base / "Annotations" / f"{image}.xml", f"<annotation>\n{head}{body}</annotation>\n")


SYNSETS = [f"n{1440000 + 7 * i:08d}" for i in range(1000)]
"""In sorted order, as many as ImageNet's real ones."""
SYNSET_NUMBERS = {wnid: 1 + (i * 373) % 1000 for i, wnid in enumerate(SYNSETS)}
"""ILSVRC2012_IDs in another order, as in the real development kit."""
SYNSET_FIELDS = [
    "ILSVRC2012_ID",
    "WNID",
    "words",
    "gloss",
    "num_children",
    "children",
    "wordnet_height",
    "num_train_images",
]
IMAGENET_VAL = [f"ILSVRC2012_val_{n:08d}.JPEG" for n in (1, 2, 3)]


def imagenet_devkit(root: Path) -> None:
    """The development kit: 1,000 synsets and one above them; labels of three validation images."""
    data = root / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    synsets = np.empty((1001, 1), dtype=[(field, object) for field in SYNSET_FIELDS])
    for wnid, number in SYNSET_NUMBERS.items():
        synsets[number - 1, 0] = (number, wnid, f"thing, {wnid}", "a thing", 0, np.zeros((1, 0)), 0, 1300)
    synsets[1000, 0] = (1001, "n00001740", "entity", "all", 2, np.array([[1, 2]]), 19, 0)
    scipy.io.savemat(data / "meta.mat", {"synsets": synsets})
    truth = [SYNSET_NUMBERS[SYNSETS[i]] for i in (999, 0, 5)]
    write(data / "ILSVRC2012_validation_ground_truth.txt", lines(map(str, truth)))


def wnids_of(name: str) -> list[str]:
    """Return the 200 WordNet ids of `imagenet_a` or `imagenet_r`, sorted."""
    from clip_benchmark.datasets import builder

    # The only place where they are written.
    listed = re.search(rf"{name}_wnids = ([\[{{].*[\]}}])\n", inspect.getsource(builder.build_dataset))
    return sorted(ast.literal_eval(listed[1]))


def objectnet(root: Path, folders: Mapping[str, str], shared: Mapping[str, str]) -> None:
    """Folder → label and label → ImageNet names; two images a folder with a red border of two pixels."""
    base = root / "objectnet-1.0"
    for i, folder in enumerate(folders):
        (base / "images" / folder).mkdir(parents=True)
        for j in range(2):
            pixels = np.full((12, 10, 3), (255, 0, 0), np.uint8)
            pixels[2:-2, 2:-2] = (10 * i % 256, 20 * j, 200)
            Image.fromarray(pixels).save(base / "images" / folder / f"{j}.png")
    write(base / "mappings" / "folder_to_objectnet_label.json", json.dumps(folders))
    write(base / "mappings" / "objectnet_to_imagenet_1k.json", json.dumps(shared))


def tiny_imagenet(root: Path, wnids: Sequence[str], val: Sequence[str]) -> None:
    """Two training images of each of `wnids`; one validation image of each of `val`."""
    base = root / "tiny-imagenet-200"
    pictures(base, [f"train/{w}/images/{w}_{i}.JPEG" for w in wnids for i in (0, 1)])
    pictures(base / "val" / "images", [f"val_{i}.JPEG" for i in range(len(val))])
    (base / "wnids.txt").write_text("\n".join(wnids))
    rows = [f"val_{i}.JPEG\t{wnid}\t0\t32\t44\t62" for i, wnid in enumerate(val)]
    write(base / "val" / "val_annotations.txt", lines(rows))


def class_folders(base: Path, classes: Iterable[str], files: Iterable[str]) -> None:
    """The same files in each class's folder; `{c}` in their names stands for the class."""
    files = list(files)
    pictures(base, [f"{c}/{file.format(c=c)}" for c in classes for file in files])


def gtsrb(root: Path) -> None:
    """Two training images, one of the full set's, and two test images of the classes 16 and 1."""
    base = root / "GTSRB"
    pictures(base / "Training", ["00000/00000_00000.ppm", "00042/00000_00000.ppm"])
    picture(base / "Final_Training" / "Images" / "00007" / "00000_00000.ppm")
    pictures(base / "Final_Test" / "Images", ["00000.ppm", "00001.ppm"])
    header = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
    rows = [header, "00000.ppm;6;6;1;1;5;5;16", "00001.ppm;6;6;1;1;5;5;1"]
    write(root / "GT-final_test.csv", lines(rows))


EUROSAT = [
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
]
COUNTRIES = sorted(f"{a}{b}" for a in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" for b in "ABCDEFGHI")[:211]


def clevr(root: Path, objects: Sequence[int]) -> None:
    """Images with these numbers of objects in both labelled parts."""
    base = root / "CLEVR_v1.0"
    for part in ("train", "val"):
        names = [f"CLEVR_{part}_{i:06d}.png" for i in range(len(objects))]
        pictures(base / "images" / part, names)
        scenes = [{"image_filename": n, "objects": [{}] * c} for n, c in zip(names, objects, strict=True)]
        write(base / "scenes" / f"CLEVR_{part}_scenes.json", json.dumps({"info": {}, "scenes": scenes}))


def openai(root: Path, folder: str, classes: Iterable[str], file: str) -> None:
    """One image of each class in each of OpenAI's three splits."""
    for part in ("train", "valid", "test"):
        class_folders(root / folder / part, classes, [file])
