"""Cases of models: configurations of three forms, folders of Hugging Face, checkpoints."""

from __future__ import annotations

import json
import struct
import zipfile
from typing import TYPE_CHECKING, Any

from cases_inputs import cases, run
from harness import Case
from mutations import CONTROL, Change, file_damages, in_json, written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

RWKV_FIELDS = [(key,) for key in ("image_depth", "n_embd", "vocab_size", "ctx_len", "head_size", "dim_ffn")]
SIZES = {"10^6": 10**6, "10^12": 10**12, "0": 0, "−5": -5, "2.5": 2.5}


def configurations() -> Iterator[Case]:
    parts = ("suite.yaml", "data/colours", "rwkv.json", "clip.json")
    rwkv = run("suite.yaml")
    yield from cases("RWKV-CLIP config", rwkv, parts, file_damages("rwkv.json", text=True))
    yield from cases("RWKV-CLIP config", rwkv, parts, in_json("rwkv.json", RWKV_FIELDS))
    sizes = in_json("rwkv.json", RWKV_FIELDS, SIZES)
    yield from cases(
        "RWKV-CLIP config",
        rwkv,
        parts,
        {n: c for n, c in sizes.items() if " is " in n and "missing" not in n},
    )
    clip = run("suite.yaml", ("-m", "open_clip:clip.json=random:0"))
    yield from cases("open_clip config", clip, parts, file_damages("clip.json", text=True))
    fields = [("embed_dim",), *(("vision_cfg", k) for k in ("image_size", "layers", "width", "patch_size"))]
    fields += [("text_cfg", k) for k in ("context_length", "vocab_size", "width", "heads")]
    fields += [("vision_cfg",), ("text_cfg",)]
    yield from cases("open_clip config", clip, parts, in_json("clip.json", fields))
    sizes = in_json("clip.json", fields[:-2], SIZES)
    yield from cases(
        "open_clip config",
        clip,
        parts,
        {n: c for n, c in sizes.items() if " is " in n and "missing" not in n},
    )
    for name, keys, value in (
        ("a tokenizer with code", ("text_cfg", "hf_tokenizer_name"), "remote"),
        ("a text tower with code", ("text_cfg", "hf_model_name"), "remote"),
        ("trust in code", ("text_cfg", "tokenizer_kwargs"), {"trust_remote_code": True}),
        ("a timm model of a file", ("vision_cfg", "timm_model_name"), "local-dir:remote"),
    ):
        yield Case(kind="open_clip config", name=name, argv=clip, parts=parts, change=_clip_with(keys, value))


def _clip_with(keys: tuple[str, str], value: Any) -> Change:
    def change(work: Path) -> None:
        content = json.loads((work / "clip.json").read_text())
        content[keys[0]][keys[1]] = value
        if keys[1] == "tokenizer_kwargs":
            content["text_cfg"]["hf_tokenizer_name"] = "remote"
        (work / "clip.json").write_text(json.dumps(content))
        _remote_code(work / "remote")

    return change


def _remote_code(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "evil.py").write_text("import pathlib\npathlib.Path('PWNED').touch()\nclass T: pass\n")
    auto = {"AutoConfig": "evil.T", "AutoModel": "evil.T", "AutoTokenizer": ["evil.T", None]}
    auto["AutoImageProcessor"] = "evil.T"
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto}))
    tokenizer = {"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["evil.T", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))


HF_FIELDS = [
    ("model_type",),
    ("projection_dim",),
    ("text_config", "hidden_size"),
    ("text_config", "vocab_size"),
    ("text_config", "num_hidden_layers"),
    ("vision_config", "image_size"),
    ("vision_config", "patch_size"),
    ("vision_config", "hidden_act"),
    ("text_config",),
]


def hugging_face() -> Iterator[Case]:
    parts = ("suite.yaml", "data/colours", "hf")
    argv = run("suite.yaml", ("-m", "hf:hf=random:0"))
    yield from cases("HF config", argv, parts, file_damages("hf/config.json", text=True))
    yield from cases("HF config", argv, parts, in_json("hf/config.json", HF_FIELDS))
    sizes = in_json("hf/config.json", HF_FIELDS[1:7], SIZES)
    yield from cases(
        "HF config", argv, parts, {n: c for n, c in sizes.items() if " is " in n and "missing" not in n}
    )
    yield Case(
        kind="HF config",
        name="code of its own",
        argv=argv,
        parts=parts,
        change=lambda w: _remote_code(w / "hf"),
    )
    for file in ("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"):
        damages = {
            n: c
            for n, c in file_damages(f"hf/{file}", text=True).items()
            if n
            in (
                "half",
                "noise",
                "a web page",
                "brackets",
                "a pipe",
                "a link to /dev/zero",
                "a folder",
                "empty",
            )
        }
        yield from cases(f"HF {file}", argv, parts, damages)
    fields = [("size", "shortest_edge"), ("crop_size",), ("image_mean",), ("resample",)]
    yield from cases(
        "HF preprocessor_config.json", argv, parts, in_json("hf/preprocessor_config.json", fields)
    )
    weights = run("suite.yaml", ("-m", "hf:hf"))
    yield from cases("HF weights", weights, parts, file_damages("hf/model.safetensors"))


def _state(work: Path) -> dict[str, Any]:
    import torch

    return dict(torch.load(work / "weights.pt", weights_only=True))


def _saved(edit: Callable[[dict[str, Any]], Any]) -> Change:
    def change(work: Path) -> None:
        import warnings

        import torch

        content = edit(_state(work))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(content, work / "weights.pt")

    return change


def _itself(state: dict[str, Any]) -> dict[str, Any]:
    state["state_dict"] = state
    return state


def _every(edit: Callable[[Any], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda state: {key: edit(value) for key, value in state.items()}


def _one(edit: Callable[[Any], Any], key: str = "logit_scale") -> Callable[[dict[str, Any]], Any]:
    return lambda state: state | {key: edit(state[key])}


def _zip(
    edit: Callable[[zipfile.ZipInfo, bytes], tuple[str, bytes]], how: int = zipfile.ZIP_STORED
) -> Change:
    def change(work: Path) -> None:
        path = work / "weights.pt"
        old = path.rename(work / "tmp" / "old.pt")
        with zipfile.ZipFile(old) as source, zipfile.ZipFile(path, "w", how) as target:
            for member in source.infolist():
                name, content = edit(member, source.read(member))
                target.writestr(name, content)

    return change


def _pickle(content: bytes) -> Change:
    return _zip(lambda m, c: (m.filename, content if m.filename.endswith("data.pkl") else c))


def _flipped(work: Path) -> None:
    content = bytearray((work / "weights.pt").read_bytes())
    for place in range(len(content) // 2, len(content) // 2 + 400):
        content[place] ^= 0xFF
    (work / "weights.pt").write_bytes(content)


def checkpoints() -> Iterator[Case]:
    import torch

    parts = ("suite.yaml", "data/colours", "rwkv.json", "weights.pt")
    argv = run("suite.yaml", ("-m", "rwkv.json=weights.pt"))
    yield from cases(".pt checkpoint", argv, parts, file_damages("weights.pt"))
    meta = torch.device("meta")
    changes: dict[str, Change] = {
        "400 flipped bytes": _flipped,
        "compressed members": _zip(lambda m, c: (m.filename, c), zipfile.ZIP_DEFLATED),
        "members elsewhere": _zip(lambda m, c: (f"../../outside/{m.filename}", c)),
        "a pickle that calls a shell": _pickle(b"cos\nsystem\n(S'touch PWNED'\ntR."),
        "a pickle that evaluates": _pickle(b"c__builtin__\neval\n(S'1'\ntR."),
        "a pickle that imports": _pickle(b"\x80\x02cevil\nT\n."),
        "a pickle of nothing": _pickle(b""),
        "a pickle of brackets": _pickle(b"\x80\x02" + b"]" * 500_000 + b"."),
        "a pickle of a huge text": _pickle(b"\x80\x04\x8d" + struct.pack("<Q", 1 << 50) + b"."),
        "tuples of tuples": _pickle(
            b"\x80\x02}K\x00K\x00\x86q\x00" + b"h\x00h\x00h\x00\x87q\x00" * 60 + b"K\x01s."
        ),
        "its own state dict": _saved(_itself),
        "a list": _saved(lambda s: [1, 2]),
        "a tensor": _saved(lambda s: s["logit_scale"]),
        "nothing": _saved(lambda s: {}),
        "texts for weights": _saved(lambda s: {k: "x" for k in s}),
        "numbers for names": _saved(lambda s: dict(enumerate(s.values()))),
        "complex numbers": _saved(_every(lambda t: t.to(torch.complex64))),
        "truth values": _saved(_every(lambda t: t.bool())),
        "whole numbers": _saved(_every(lambda t: t.long())),
        "float8": _saved(_every(lambda t: t.to(torch.float8_e4m3fn))),
        "sparse": _saved(_every(lambda t: t.to_sparse() if t.ndim else t)),
        "on no device": _saved(_every(lambda t: t.to(meta))),
        "quantized": _saved(_every(lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8))),
        "NaN": _saved(_every(lambda t: torch.full_like(t, float("nan")))),
        "one NaN": _saved(_one(lambda t: torch.full_like(t, float("nan")))),
        "infinite": _saved(_every(lambda t: torch.full_like(t, float("inf")))),
        "logit_scale of 100": _saved(_one(lambda t: torch.tensor(100.0))),
        "logit_scale of −1000": _saved(_one(lambda t: torch.tensor(-1000.0))),
        "logit_scale of three": _saved(_one(lambda t: torch.ones(3))),
        "no logit_scale": _saved(lambda s: {k: v for k, v in s.items() if k != "logit_scale"}),
        "transposed": _saved(_every(lambda t: t.T.contiguous() if t.ndim == 2 else t)),
        "flattened": _saved(_every(lambda t: t.flatten())),
        "a petabyte by expansion": _saved(_every(lambda t: torch.zeros(1).expand(1 << 40))),
        "one axis more": _saved(_every(lambda t: t[None])),
        "20,000 foreign names": _saved(
            lambda s: s | {f"foreign.{i}": s["logit_scale"] for i in range(20_000)}
        ),
        "names of control characters": _saved(lambda s: s | {CONTROL: s["logit_scale"]}),
        "a name of 200,000 letters": _saved(lambda s: s | {"x" * 200_000: s["logit_scale"]}),
        "half of the weights": _saved(lambda s: dict(list(s.items())[: len(s) // 2])),
        "a prefix on some": _saved(
            lambda s: {("module." if i % 2 else "") + k: v for i, (k, v) in enumerate(s.items())}
        ),
        "state_dict that is a list": _saved(lambda s: {"state_dict": [1]}),
        "state_dict in state_dict": _saved(lambda s: {"state_dict": {"state_dict": {"state_dict": 3}}}),
    }
    yield from cases(".pt checkpoint", argv, parts, changes)
    yield from cases(
        ".safetensors checkpoint",
        run("suite.yaml", ("-m", "rwkv.json=weights.safetensors")),
        ("suite.yaml", "data/colours", "rwkv.json", "weights.safetensors"),
        file_damages("weights.safetensors") | SAFETENSORS,
    )


def _header(header: bytes, length: int | None = None) -> Change:
    return written("weights.safetensors", struct.pack("<Q", length or len(header)) + header + bytes(64))


def _tensor(**fields: Any) -> Change:
    content = {"logit_scale": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]} | fields}
    return _header(json.dumps(content).encode())


SAFETENSORS: dict[str, Change] = {
    "a header of an exbibyte": _header(b"{}", 1 << 60),
    "a header of spaces": _header(b" " * 5000),
    "a header that is a list": _header(b"[]"),
    "a header of brackets": _header(b"[" * 100_000),
    "no tensors": _header(b"{}"),
    "a shape of 2^62": _tensor(shape=[1 << 62]),
    "a negative shape": _tensor(shape=[-1]),
    "offsets behind the end": _tensor(data_offsets=[0, 1 << 50]),
    "offsets the wrong way": _tensor(data_offsets=[8, 4]),
    "an unknown dtype": _tensor(dtype="F99"),
    "a header that begins like a page": _header(b" <html>" + b" " * 50),
}


def all_cases() -> Iterator[Case]:
    for make in (configurations, hugging_face, checkpoints):
        yield from make()
