"""Which malformed inputs the program may take without a word of complaint, and why.

A case named here must end with exit code 0; every other must not.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness import Case

REASONS: dict[str, tuple[str, ...]] = {
    "damaged entries of the store are encoded again, with one warning": (r"store: .*",),
    "the command says what is damaged, or deletes it": (
        r"cache (show|clear) / (meta.json|keys.json|embedding.npy): .*",
    ),
    "editors put the mark there, and it is skipped": (
        r"(suite|recipe|captions.csv|captions.json|manifest|FER2013 table|Karpathy's JSON|JSON lines)"
        r" / a mark of byte order",
    ),
    "what is left is whole, with one word cut short": (r"captions.csv / without its last tenth",),
    "only {c} is replaced and no other braces are looked at": (r"suite / a template of attributes",),
    "what is no folder beside the classes' folders is not looked at": (
        r"(image folder|data prepare of a folder) / (a class that is a loop|a folder that leads to itself)",
    ),
    "a folder is no image, whatever its name": (
        r"(image folder|data prepare of a folder) / an image that is a folder",
    ),
    "a class may be called anything; what is shown is made printable": (
        r"(image folder|data prepare of a folder) / a class of control characters",
        r"(shards|data verify) / class names of control characters",
    ),
    "what follows the end of a pickle is not read": (r"CIFAR (pickle|names) / twice",),
    "equal records collapse": (r"report: results.jsonl / twice",),
    "newer versions may add keys": (
        r"report: (results.jsonl|run.json|examples) / a key nobody knows",
        r"Karpathy's JSON / a key nobody knows",
        r"report: training/tiny.jsonl / a key nobody knows",
    ),
    "prompts of other datasets stand in the same file": (r"label.json / a key nobody knows",),
    "the library's own configurations have keys of their own": (r"HF config / a key nobody knows",),
    "older versions have fewer keys": (
        r"report: results.jsonl / (schema_version|model_info.num_parameters|notes|n) is missing",
    ),
    "a run's description, its examples and its curves may be absent": (
        r"report: (run.json|examples) / absent",
        r"report: curve / (absent|a link to itself|a link to nothing)",
        r"report: run.json / a link to (nothing|itself)",
        r"report: training/tiny.jsonl / (empty|absent)",
        r"report: run.json / duration_s is missing",
        r"report: examples / thumbnails.0 is missing",
    ),
    "a suite is a text of any length up to the limit": (r"report: run.json / suite_text is a long text",),
    "what is no picture is shown as none": (r"report: examples / thumbnails.0 is control characters",),
    "curves and logs may say a point twice": (
        r"report: (training/tiny.jsonl|curve) / twice",
        r"training: tiny.jsonl / twice",
    ),
    "a line of a log may hold what was measured then": (r"report: training/tiny.jsonl / loss is missing",),
    "whose log it is, its file's name says": (
        r"report: training/tiny.jsonl / model is (missing|control characters)",
    ),
    "a kill may cut the last line, and the log goes on from the state": (
        r"training: tiny.jsonl / (first quarter|half|zeros|a line of megabytes|absent|empty)",
        r"training: tiny.jsonl / a link to (itself|nothing)",
        r"training: tiny.jsonl / without its last tenth",
    ),
    "without a state the training begins anew": (
        r"training: resume.pt / (a link to itself|absent|a link to nothing)",
    ),
    "it is a number in range": (
        r"option --memory-budget / '1.5'",
        r"data prepare --samples-per-shard / '99999999999999999999'",
    ),
    "a folder may be called anything, and is made": (
        r"data prepare --data-root / (of control characters|absent)",
        r"option --(cache|out) / (absent|of control characters|not UTF-8)",
        r"data prepare --data-root / not UTF-8",
        r"environment / a cache of control characters: (run|cache clear|cache show)",
        r"report --out / (of control characters|absent)",
    ),
    "without a name the store lies where it does by default": (r"environment / an empty cache: run",),
    "a store that is not there yet is empty": (
        r"path of cache (clear|show) --cache / (of control characters|absent|not UTF-8)",
        r"environment / (a cache that cannot be made|an empty cache): cache (clear|show)",
    ),
    "a class may have any name that can be printed": (r"label.json / colours.1 is (a text|true)",),
    "the library has a value of its own where a key is missing": (
        r"open_clip config / (vision_cfg|text_cfg)\.\w+ is missing",
        r"HF config / (projection_dim|vision_config) is missing",
        r"HF config / (text|vision)_config\.(?!image_size|patch_size)\w+ is missing",
        r"HF preprocessor_config.json / (image_mean|resample) is missing",
    ),
    "dim_ffn has a value that follows from n_embd": (r"RWKV-CLIP config / dim_ffn is missing",),
    "it is read from its end": (r"(.pt checkpoint|parquet|training: resume.pt) / twice",),
    "a prefix is taken off name by name": (r".pt checkpoint / a prefix on some",),
    "the file may be absent, and what is no file is as good as absent": (
        r"shards: (nshards|dataset_type).txt / .*",
    ),
    "an index is a copy, made anew with a warning where it is none": (
        r"(shards|data verify) / an index that is .*",
    ),
    "a caption is any text, and is cut where a text tower ends": (
        r"captions in shards / 200,000 captions",
        r"captions.json / b.png is 200,000 letters",
    ),
    "what follows the end of a picture is not read": (r"image in a folder / (twice|without its last tenth)",),
    "shards take images as they are, and `data verify` decodes them": (
        r"data prepare of a folder / an image of 10\^10 pixels",
    ),
    "the captions name the images of the set; others beside them are counted, and said in a warning": (
        r"captions.csv / an image without captions",
        r"captions.json / (a|b).png is missing",
    ),
    "what follows the end of the content is not read": (r"(mat names|h5 images|h5 labels) / twice",),
    "between pixels every byte is a pixel; only a download's checksum can tell": (
        r"h5 images / (a surrogate|a byte that is not UTF-8|NUL bytes inside)",
    ),
    "rows of other splits are not looked at": (r"FER2013 table / control characters",),
    "a report may stand anywhere": (r"report --out / not UTF-8",),
    "a slash in a name becomes a dash, as in the names of its folders": (
        r"data prepare NAME / ('a/b'3|'../x'4|'/etc'4|'birds/../../../outside'22)",
    ),
    "the change changes nothing": (
        r".pt checkpoint / its own state dict",
        r"shards / without its last tenth",
        r"report: run.json / (identity is a mapping|suite_text is a text)",
        r"report: examples / examples.0.query is a text",
    ),
    "a large vocabulary within the limit": (r"open_clip config / text_cfg.vocab_size is 10\^6",),
    "its members are read by name, wherever they stand": (r"mat file / twice",),
    "zeros and NUL bytes are pixels too": (
        r"STL-10 images / zeros",
        r"FER2013 table / NUL bytes inside",
    ),
    "what is left is a smaller set, and is called one": (
        r"Karpathy's JSON / images.0( is missing|.split is an empty text)",
    ),
    "a program's name may be empty": (r"report: run.json / command is an empty text",),
    "a loss may be negative": (r"report: training/tiny.jsonl / loss is −1",),
    "a run that left nothing begins anew": (r"run again: (results.jsonl / (empty|absent)|.lock / absent)",),
    "only that it can be locked counts": (r"run again: .lock / a pipe",),
    "a set may be called anything": (r"data prepare NAME / 'zzz'3",),
    "it is a suite": (r"path of validate / a file",),
    "job schedulers set it as well; only torchrun's counts": (r"environment / .*, without torchrun",),
}


def judged(cases: Iterable[Case]) -> list[Case]:
    """Return the cases with their reasons.

    Raises:
        AssertionError: a reason is of no case, or a case has two.
    """
    patterns = {pattern: reason for reason, patterns in REASONS.items() for pattern in patterns}
    used: set[str] = set()
    made = []
    for case in cases:
        found = [p for p in patterns if re.fullmatch(p, f"{case.kind} / {case.name}")]
        assert len(found) < 2, (case.kind, case.name, found)
        used.update(found)
        made.append(dataclasses.replace(case, tolerated=patterns[found[0]]) if found else case)
    assert used == patterns.keys(), patterns.keys() - used
    return made
