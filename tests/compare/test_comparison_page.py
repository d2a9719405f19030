"""The page of a comparison: verdict, sets, samples that flipped with pictures; safe with any name."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from small_runs import Run, everything

from rwkvclip_eval.compare.pairing import pin, read_side
from rwkvclip_eval.compare.result import compare_runs
from rwkvclip_eval.data.types import DatasetInfo
from rwkvclip_eval.errors import DataNotFound, OutputError
from rwkvclip_eval.records.schema import Record
from rwkvclip_eval.report.comparison import comparison_page
from rwkvclip_eval.report.comparison_pictures import collect_pictures, stored
from rwkvclip_eval.run import pictures as of_data

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Command = Callable[..., tuple[int, str, str]]

HOSTILE = "<script>alert(1)</script>|\\`%_\n\u202e$x$ {{ 7 * 7 }} " + "long " * 2000


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs `main` and `new`, of a unit of every kind; the new one has lost two sets."""
    base = tmp_path_factory.mktemp("page")
    for name, flip in (("main", 0.0), ("new", 0.3)):
        run = Run(base / name)
        everything(run)
        run.zero_shot("cifar10", seed=4, flip=flip)
        run.zero_shot("digits", seed=5, flip=flip)
        run.write()
    return base


def result_of(one: Path, other: Path) -> Any:
    return compare_runs(read_side(one), read_side(other))


def page_of(one: Path, other: Path, **more: Any) -> str:
    result = result_of(one, other)
    return comparison_page(result, collect_pictures(result, None), **more)


def picture(number: int) -> str:
    """A small JPEG whose colour follows from `number`."""
    out = io.BytesIO()
    Image.new("RGB", (16, 16), (number % 256, number // 256, 99)).save(out, "JPEG")
    return base64.b64encode(out.getvalue()).decode()


class Reader(HTMLParser):
    """Which elements stand in which, and what text each has."""

    void = frozenset({"meta", "img", "br", "source"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def harmless(page: str) -> Reader:
    """Read a page and fail where it runs or fetches anything."""
    reader = Reader(page)
    assert not {tag for tag, _ in reader.tags} & {"script", "iframe", "object", "link", "form"}
    for _, attributes in reader.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "srcset", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "url(" not in page and "@import" not in page
    assert "default-src 'none'" in page
    return reader


def test_the_verdict_its_rule_and_every_number_stand_on_the_page(runs: Path) -> None:
    result = result_of(runs / "main", runs / "new")
    text = harmless(page_of(runs / "main", runs / "new")).text
    assert text.index("REGRESSION") < text.index(result.stated) < text.rindex("CIFAR-10")
    for told in (
        result.scope,
        "On these sets: REGRESSION where nothing differs in",
        "points on every set is",
    ):
        assert told in text
    for row in result.rows:
        found = row.compared.found
        assert row.compared.metric.text(found.candidate) in text
        if row.verdict:
            assert f"+{found.difference.gained} −{found.difference.lost}" in text
            assert row.compared.unit.title in text
    assert "not measured" in text
    moved = next(row for row in result.rows if row.compared.unit.dataset == "cifar10").compared.found.classes[
        0
    ]
    assert f"{moved.images}{moved.baseline}{moved.candidate}{moved.candidate - moved.baseline:+d}" in text


def test_sides_are_short_with_their_step_and_folded_digests(tmp_path: Path) -> None:
    digests = {}
    for name, flip in (("main", 0.0), ("new", 0.3)):
        run = Run(tmp_path / name)
        digests[name] = hashlib.sha256(name.encode()).hexdigest()
        info = {"step": 7000, "step_unit": "", "checkpoint_sha256": digests[name]}
        run.zero_shot("cifar10", flip=flip, model_info=info)
        run.write()
    page = page_of(tmp_path / "main", tmp_path / "new")
    reader = harmless(page)
    cards = page[page.index('<ul class="cards">') : page.index("</header>")]
    assert cards.count("step 7000 · ") == 2
    assert all(digest not in cards for digest in digests.values())
    shown = [a for tag, a in reader.tags if tag == "code"]
    assert [a["title"] for a in shown] == list(digests.values())
    assert all(a["class"] == "hash" and a["tabindex"] == "0" for a in shown)
    assert re.search(r"\.hash\{[^}]*max-width:8ch;overflow:hidden", page)
    assert "regressed: worse beyond chance" in reader.text
    provenance = page[page.index('id="provenance"') :]
    assert provenance.count('<details class="run"><summary>') == 2


def test_the_noise_floor_is_the_repeats(runs: Path) -> None:
    sides = read_side(runs / "main"), read_side(runs / "new")
    result = compare_runs(*sides, sides[1])
    text = Reader(comparison_page(result, collect_pictures(result, None))).text
    assert f"{100 * result.judgement.noise:.2f}what repeating the baseline moves" in text
    assert "AMBIGUOUS" in text


def examples(run: Path, dataset: str, rows: list[int]) -> None:
    """Keep pictures of some rows as a run keeps those of confident errors."""
    unit = next(path.name for path in (run / "predictions").iterdir() if path.name.endswith(dataset))
    (run / "examples").mkdir(exist_ok=True)
    content = {"examples": [], "thumbnails": {str(row): picture(row) for row in rows}, "errors": []}
    (run / "examples" / f"{unit}.json").write_text(json.dumps(content))


def test_pictures_come_from_the_examples_of_either_run_then_from_the_data(runs: Path, tmp_path: Path) -> None:
    for name in ("main", "new"):
        run = Run(tmp_path / name)
        run.zero_shot("cifar10", flip=0.3 * (name == "new"))
        run.write()
    result = result_of(tmp_path / "main", tmp_path / "new")
    lost = result.rows[0].compared.found.flipped.lost
    rows = [int(flip.key.rpartition("/")[2]) for flip in lost[:3]]
    examples(tmp_path / "main", "cifar10", rows[:1])
    examples(tmp_path / "new", "cifar10", rows[1:2])
    asked = []

    def read(record: Any, keys: Any) -> dict[str, str]:
        asked.append((record.dataset, list(keys)))
        return {lost[2].key: picture(rows[2])}

    pictures = collect_pictures(result, read)
    unit = result.rows[0].compared.unit
    assert pictures.found == {(unit, flip.key): picture(row) for flip, row in zip(lost, rows, strict=False)}
    assert asked == [("cifar10", sorted(flip.key for flip in lost[2:8]))]
    reader = harmless(comparison_page(result, pictures))
    shown = [a["src"] for tag, a in reader.tags if tag == "img" and "jpeg" in (a["src"] or "")]
    assert shown == [f"data:image/jpeg;base64,{picture(row)}" for row in rows]
    assert reader.text.count("no picture") == 5
    names = f"{lost[0].target}{lost[0].baseline} → {lost[0].candidate}{lost[0].key}"
    assert names in reader.text and "class " in names
    # What the runs do not keep is said, with the way to have it.
    said = Reader(comparison_page(result, collect_pictures(result, None))).text
    assert "Pictures are not at hand: runs keep few pictures; --data-root DATA" in said
    # A baseline file holds none.
    pin(tmp_path / "main", None, tmp_path / "b")
    assert stored(read_side(tmp_path / "b"), unit, [lost[0].key]) == {}


class Coloured:
    """A registered dataset of one colour an image."""

    def __init__(self, fingerprint: str) -> None:
        self.info = DatasetInfo(name="x", kind="classification", num_samples=4, fingerprint=fingerprint)
        self.keys = [f"k{i}" for i in range(4)]

    def image(self, index: int) -> Image.Image:
        if index == 3:
            raise OSError("a disk broke")
        return Image.new("RGB", (300, 200), (0, 0, 60 * index))


def test_pictures_of_the_data_are_of_the_samples_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_data, "open_dataset", lambda ref, **_: Coloured("f"))
    found = of_data.pictures(_record("x", "f"), ["k2", "k3", "other"], None)
    assert list(found) == ["k2"]
    image = Image.open(io.BytesIO(base64.b64decode(found["k2"])))
    assert image.size == (160, 107)
    assert abs(np.asarray(image).mean(axis=(0, 1)) - [0, 0, 120]).max() < 6
    with pytest.raises(DataNotFound, match="another copy"):
        of_data.pictures(_record("x", "g"), ["k2"], None)
    with pytest.raises(DataNotFound, match="the suite's own"):
        of_data.pictures(_record("\x01", "f"), ["k2"], None)


def _record(dataset: str, fingerprint: str) -> Any:
    return Record(
        unit="u", status="ok", model="m", model_info={}, task="t", task_version=1, dataset=dataset,
        protocol="standard", dataset_fingerprint=fingerprint,
    )  # fmt: skip


def test_hostile_names_run_nothing_and_break_nothing(tmp_path: Path) -> None:
    for name, flip in (("main", 0.0), ("new", 0.3)):
        run = Run(tmp_path / name, model=HOSTILE[:900])
        run.zero_shot(HOSTILE[:900], protocol=HOSTILE[:900], flip=flip, names=[HOSTILE] * 6)
        run.write()
    page = page_of(tmp_path / "main", tmp_path / "new")
    reader = harmless(page)
    assert "\u202e" not in page
    assert "<script>" in reader.text and "{{ 7 * 7 }}" in reader.text
    assert len(page) < 500_000


def test_the_page_gives_up_pictures_before_it_grows_too_large(runs: Path) -> None:
    result = result_of(runs / "main", runs / "new")
    big = base64.b64encode(bytes(30_000)).decode()

    def read(_: Any, keys: Any) -> dict[str, str]:
        return dict.fromkeys(keys, big)

    pictures = collect_pictures(result, read)
    whole, small = (comparison_page(result, pictures, n) for n in (5_000_000, 250_000))
    assert 250_000 < len(whole.encode()) < 5_000_000
    assert len(small.encode()) <= 250_000
    assert 0 < small.count(big) < whole.count(big)
    none = comparison_page(result, pictures, 120_000)
    assert none.count(big) == 0 and "Left out to keep this page small" in none
    with pytest.raises(OutputError, match="more than the 1000 a page may have"):
        comparison_page(result, pictures, 1000)


def test_the_command_prints_and_writes_it(run: Command, runs: Path, tmp_path: Path) -> None:
    code, out, err = run("compare", runs / "main", runs / "new", "--format", "html", "--out", tmp_path / "o")
    assert (code, err) == (1, "")
    assert out.strip() == (tmp_path / "o" / "comparison.html").read_text().strip()
    harmless(out)
    (tmp_path / "o" / "comparison.html").write_text("mine")
    code, _, err = run("compare", runs / "main", runs / "new", "--out", tmp_path / "o")
    assert (code, "comparison.html is there and was not written by this program" in err) == (2, True)
    assert (tmp_path / "o" / "comparison.html").read_text() == "mine"
    (tmp_path / "o" / "comparison.html").unlink()
    # No data is there of that name.
    code, out, err = run(
        "compare", runs / "main", runs / "new", "--format", "html", "--data-root", tmp_path / "o"
    )
    assert (code, err) == (1, "")
    assert "Pictures are not at hand" in Reader(out).text
