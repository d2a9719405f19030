import json
import re
import subprocess
import sys

import pytest

from rwkvclip_eval.data.catalogue import catalogue
from rwkvclip_eval.data.prompts import normalise_templates, resolve_prompts, shipped
from rwkvclip_eval.data.types import DatasetRef, PromptFiles
from rwkvclip_eval.errors import UserError


def resolve(name, own=None, own_templates=None, base_dir=None, **fields):
    variant = None
    if name in catalogue():
        variant = next(iter(catalogue()[name].variants.values()))
    return resolve_prompts(DatasetRef(name=name, **fields), own, own_templates, base_dir, variant)


def test_number_of_shipped_templates_is_that_of_the_zero_shot_protocol():
    names = ["cifar10", "cifar100", "food101", "pets", "flowers", "sun397", "cars", "dtd"]
    names += ["caltech101", "aircraft", "imagenet"]
    expected = [18, 18, 1, 1, 1, 2, 8, 8, 34, 2, 80]
    assert [len(shipped("templates", name)) for name in names] == expected


def test_own_lists_come_before_the_shipped_ones():
    assert resolve("mnist", ["a", "b"], ["x {c}"]) == (("a", "b"), ("x {c}",))
    names, templates = resolve("mnist", ["a", "b"], ["x {c}"], prompts="clip-benchmark")
    assert names == tuple("0123456789")
    assert templates == ('a photo of the number: "{c}".',)


def test_reference_comes_before_everything():
    names, templates = resolve("mnist", ["a"], ["{c}"], class_names=("q",), templates=("a {} b",))
    assert (names, templates) == (("q",), ("a {c} b",))


def test_official_files_are_found_by_alias_and_relative_to_the_suite(tmp_path):
    (tmp_path / "label.json").write_text(json.dumps({"fgvc_aircraft": ["707", "A380"], "CIFAR10": ["plane"]}))
    (tmp_path / "template.json").write_text(json.dumps({"FGVCAircraft": ["a photo of a {}."]}))
    files = PromptFiles(labels="label.json", templates="template.json")
    expected = (("707", "A380"), ("a photo of a {c}.",))
    assert resolve("aircraft", ["own"], base_dir=tmp_path, prompts=files) == expected
    only_labels = resolve("cifar10", ["own"], base_dir=tmp_path, prompts=PromptFiles(labels="label.json"))
    assert only_labels[0] == ("plane",)
    assert len(only_labels[1]) == 18


def test_every_name_of_the_released_label_file_is_understood(tmp_path):
    # The keys of label.json of RWKV-CLIP and ALIP, but for sets that the catalogue does not have.
    keys = {
        "food101": "food101", "cifar10": "cifar10", "cifar100": "cifar100", "birdsnap": "birdsnap",
        "imagenet": "imagenet", "sst2": "rendered_sst2", "hateful_memes": "hateful_memes", "clevr": "clevr",
        "kinetics700": "kinetics700", "ucf101": "ucf101", "pcam": "pcam", "country211": "country211",
        "kitti": "kitti", "gtsrb": "gtsrb", "resisc45": "resisc45", "eurosat": "eurosat", "stl10": "stl10",
        "fer2013": "fer2013", "mnist": "mnist", "imagenet_sketch": "imagenet_sketch",
        "imagenet_a": "imagenet_a", "imagenet_r": "imagenet_r", "imagenet_v2": "imagenet_v2",
        "flowers": "flowers", "caltech101": "caltech101", "pets": "pets", "dtd": "dtd",
        "voc2007": "voc2007", "aircraft": "aircraft", "stanford_car": "cars", "sun397": "sun397",
    }  # fmt: skip
    (tmp_path / "label.json").write_text(json.dumps({key: [f"a {key}"] for key in keys}))
    files = PromptFiles(labels="label.json")
    for key, name in keys.items():
        assert name in catalogue()
        assert resolve(name, ["own"], base_dir=tmp_path, prompts=files)[0] == (f"a {key}",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"cifar10": ["a"]}', r"label\.json: Unknown dataset 'mnist'.*Known: cifar10"),
        ("{", "is not JSON"),
        ("[]", "expected a mapping"),
        ('{"mnist": "zero"}', "must be a list"),
        ('{"mnist": []}', "must be a list"),
    ],
)
def test_official_files_that_do_not_serve_are_refused(tmp_path, text, message):
    (tmp_path / "label.json").write_text(text)
    with pytest.raises(UserError, match=message):
        resolve("mnist", base_dir=tmp_path, prompts=PromptFiles(labels="label.json"))
    with pytest.raises(UserError, match="Cannot read the prompt file"):
        resolve("mnist", base_dir=tmp_path, prompts=PromptFiles(labels="absent.json"))


def test_names_of_the_data_in_another_order_are_refused():
    with pytest.raises(UserError, match=r"in another order .label 0 is 'cat' in the data, 'dog' was given"):
        resolve("x", ["Cat", "dog"], ["{c}"], class_names=("dog", "cat"))


def test_caltech101_lists_fit_the_variant():
    variants = catalogue()["caltech101"].variants
    vtab = shipped("labels", "caltech101", variants["clip-benchmark"])
    assert vtab[:2] == ("accordion", "airplane") and len(vtab) == 102
    assert shipped("labels", "caltech101", variants["seed3072"]) is None


def test_missing_names_say_what_to_write_and_templates_may_be_missing():
    with pytest.raises(UserError, match=r"no class names.*class_names: \[...\]"):
        resolve("mine")
    assert resolve("mine", ["a"]) == (("a",), ())
    with pytest.raises(UserError, match=r"'a photo' has no {c}"):
        resolve("mine", ["a"], ["a photo"])


def test_shipped_lists_are_read_without_torch():
    code = (
        "import sys; from rwkvclip_eval.data.prompts import shipped; "
        "assert shipped('labels', 'imagenet'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_more_templates_than_anybody_scores_are_refused():
    assert len(normalise_templates(["a {c}"] * 10_000, "birds")) == 10_000
    with pytest.raises(UserError, match="birds: more than 10000 templates"):
        normalise_templates(["a {c}"] * 10_001, "birds")


def test_a_class_name_or_template_longer_than_any_text_tower_reads_is_refused():
    resolve("birds", ["x" * 2000], ["{c}" + "x" * 1997])
    with pytest.raises(UserError, match=r"birds: the class name 'x+.* has 2001 letters; at most 2000"):
        resolve("birds", ["x" * 2001], ["{c}"])
    with pytest.raises(UserError, match=r"birds: the template .* has 2001 letters; at most 2000"):
        resolve("birds", ["x"], ["{c}" + "x" * 1998])


INVISIBLE = {
    "\u200b": "U+200B",
    "\u2060\ufeff": "U+2060 U+FEFF",
    "\u200d\u00ad \u3164": "U+200D U+00AD U+0020 U+3164",
    "\u2800": "U+2800",
    "\ufe0f": "U+FE0F",
    "\x1b": "U+001B",
}


@pytest.mark.parametrize(("name", "points"), INVISIBLE.items(), ids=INVISIBLE.values())
def test_a_class_name_that_shows_nothing_is_refused_with_its_code_points(tmp_path, name, points):
    (tmp_path / "label.json").write_text(json.dumps({"x": ["a", name]}))
    said = re.escape(f"x: in label.json, the class name of label 1 shows nothing but {points}")
    with pytest.raises(UserError, match=said):
        resolve("x", base_dir=tmp_path, prompts=PromptFiles(labels="label.json"))
    with pytest.raises(UserError, match="in class_names of the suite, the class name of label 0 shows"):
        resolve("x", class_names=(name, "a"))
    with pytest.raises(UserError, match="in the data, the class name of label 1 shows"):
        resolve("x", ["a", name])


@pytest.mark.parametrize(("sign", "point"), [("\0", "U+0000"), ("\ud800", "U+D800")])
def test_what_no_text_may_hold_is_refused_in_class_names_and_templates(tmp_path, sign, point):
    (tmp_path / "label.json").write_text(json.dumps({"x": ["a", f"b{sign}c"]}))
    (tmp_path / "template.json").write_text(json.dumps({"x": [f"a {{}} {sign}"]}))
    with pytest.raises(
        UserError, match=rf"in label.json, the class name of label 1 holds {re.escape(point)} \('b\S+c'\)"
    ):
        resolve("x", base_dir=tmp_path, prompts=PromptFiles(labels="label.json"))
    with pytest.raises(UserError, match=rf"a template holds {re.escape(point)}"):
        resolve("x", ["a"], base_dir=tmp_path, prompts=PromptFiles(templates="template.json"))


def test_zero_width_characters_within_a_name_stay():
    names = ("\u0645\u06cc\u200c\u062e", "👩\u200d🔬", "❤\ufe0f")
    assert resolve("x", names)[0] == names
