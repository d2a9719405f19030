"""UCF101 and Kinetics-700 as still images: the middle frame of each video.

    ucf101       ucfTrainTestlist/{classInd,trainlist01,testlist01}.txt (also lists 02 and 03)
                 frames/**/v_ApplyEyeMakeup_g01_c01.jpg, or the videos UCF-101/CLASS/*.avi or UCF101/*.avi
    kinetics700  kinetics700/{train,validate}.csv (label,youtube_id,time_start,time_end,split), as the archive
                 unpacks, or without that folder, or in annotations/
                 frames/**/YOUTUBEID_000010_000020.jpg, or videos of that name in train/, val/ or videos/

Frames that you cut yourself are taken as they are; of videos, frame n // 2 of n is decoded with PyAV. Of
hundreds of thousands of clips some cannot be decoded: those are damaged images, not an end.
"""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from rwkvclip_eval.data.formats.image_files import (
    class_ids,
    find_base,
    image_split,
    need,
    need_split,
    read_lines,
)
from rwkvclip_eval.data.reading import MAX_PIXELS, csv_rows
from rwkvclip_eval.data.samples import Undecodable
from rwkvclip_eval.errors import DamagedData, DataNotFound, name_some

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

    from rwkvclip_eval.data.samples import Split

FRAME_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
VIDEO_SUFFIXES = (".avi", ".mp4", ".mkv", ".webm")
FRAME_FOLDERS = ("frames", "UCF-101-midframes")
"""The second is that of CoOp's widely used copy of UCF101."""

# CLIP's prompts (openai/CLIP, data/prompts.md); clip-benchmark has none for either set.
MEDIA = ("photo", "video", "example", "demonstration")
DOING = ("", "using ", "doing ", "during ", "performing ", "practicing ")
UCF101_TEMPLATES = tuple(
    f"a {medium} of {article} person {doing}{{c}}."
    for doing, article, medium in product(DOING, ("a", "the"), MEDIA)
)
KINETICS_TEMPLATES = tuple(
    f"a {medium} of {subject}{{c}}."
    for medium in MEDIA
    for subject in ("", *(f"a person {d}" for d in DOING))
)
UCF101_LISTS = {"default": "01", "list02": "02", "list03": "03"}
KINETICS_FILES = {"train": ("train.csv",), "test": ("validate.csv", "val.csv")}
KINETICS_FOLDERS = ("", "kinetics700", "annotations", "annotations/kinetics700")
KINETICS_VIDEOS = {"train": ("train", "videos"), "test": ("val", "validate", "videos")}


@dataclass(frozen=True)
class MiddleFrameReader:
    """Decodes the middle frame of one video per image.

    Attributes:
        paths: the n videos.
    """

    paths: tuple[Path, ...]

    def read(self, index: int) -> Image:
        """Return frame n // 2 of the video's n.

        Raises:
            Undecodable: it cannot be decoded.
            OSError: it cannot be read.
        """
        return middle_frame(self.paths[index])

    def where(self, index: int) -> str:
        """Return the video's path."""
        return str(self.paths[index])


def middle_frame(path: Path) -> Image:
    """Return frame n // 2 of a video of n frames, counted by decoding order's packets.

    Raises:
        Undecodable: it holds no video, or cannot be decoded.
        OSError: the file is not there or may not be read.
    """
    import av
    from PIL import Image

    try:
        # Headers lie about the number of frames; packets do not, and reading them decodes nothing.
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            if stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
                raise Undecodable(f"its frames have more than {MAX_PIXELS} pixels")
            wanted = sum(packet.size > 0 for packet in container.demux(stream)) // 2
        with av.open(str(path)) as container:
            frame = None
            for number, frame in enumerate(container.decode(video=0)):  # noqa: B007  The last one is used.
                if number == wanted:
                    break
            if frame is None:
                raise Undecodable("it has no frame")
            return Image.fromarray(frame.to_ndarray(format="rgb24"))
    except (FileNotFoundError, PermissionError):
        raise
    except (av.FFmpegError, IndexError) as error:
        raise Undecodable(f"not a readable video: {error}") from error


def read_ucf101(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Read list 01, 02 or 03 of the authors' three."""
    name = "ucf101"
    need_split(name, split, ("train", "test"))
    root = root.absolute()
    lists = find_base(name, root, ["ucfTrainTestlist"], "classInd.txt")
    folders = [line.split()[-1] for line in read_lines(name, lists / "classInd.txt")]
    listed = read_lines(name, lists / f"{split}list{UCF101_LISTS[variant]}.txt")
    entries = [line.split()[0] for line in listed]  # Those of the training lists end with the class number.
    labels = class_ids(name, [entry.split("/")[0] for entry in entries], folders, lists / "classInd.txt")
    stems = [Path(entry).stem for entry in entries]
    frames = next((root / folder for folder in FRAME_FOLDERS if (root / folder).is_dir()), None)
    videos = [root / folder for folder in ("UCF-101", "UCF101") if (root / folder).is_dir()]
    # One class is spelt otherwise in one of the two archives of the videos than in the lists.
    found = {stem.lower(): path for stem, path in _index(frames, videos).items()}
    if missing := [stem for stem in stems if stem.lower() not in found]:
        raise DataNotFound(
            f"{name}: {len(missing)} of {len(stems)} videos are neither in {root / 'frames'} (as .jpg) "
            f"nor in {root / 'UCF-101'}: {name_some(missing)}."
        )
    paths = [found[stem.lower()] for stem in stems]
    return _split(name, root, paths, labels, ucf101_names(folders), UCF101_TEMPLATES, cache_dir)


def ucf101_names(folders: Sequence[str]) -> tuple[str, ...]:
    """Return CLIP's class names of the class folders: their words apart."""
    # One folder is spelt otherwise than its videos, which CLIP's list follows.
    spelt = ["HandStandPushups" if folder == "HandstandPushups" else folder for folder in folders]
    return tuple(re.sub("(?<=[a-z])(?=[A-Z])", " ", folder) for folder in spelt)


def read_kinetics700(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Read a split; the validation videos are `test`. Videos that YouTube has lost are left out."""
    name = "kinetics700"
    need_split(name, split, KINETICS_FILES, "the validation videos are the test split")
    root = root.absolute()
    places = [root / folder / file for folder in KINETICS_FOLDERS for file in KINETICS_FILES[split]]
    path = need(name, next((place for place in places if place.is_file()), places[0]))
    rows = _kinetics_rows(path)
    class_names = sorted({label for label, _ in rows})
    frames = root / "frames"
    videos = [root / folder for folder in KINETICS_VIDEOS[split] if (root / folder).is_dir()]
    found = _index(frames if frames.is_dir() else None, videos)
    present = [(label, found[stem]) for label, stem in rows if stem in found]
    if not present:
        raise DataNotFound(
            f"{name}: none of the {len(rows)} videos of {path.name} is in {frames} (as .jpg) or in "
            f"{root / KINETICS_VIDEOS[split][0]}; expected names such as {rows[0][1]}.jpg."
        )
    labels = class_ids(name, [label for label, _ in present], class_names, path)
    return _split(name, root, [p for _, p in present], labels, class_names, KINETICS_TEMPLATES, cache_dir)


def _kinetics_rows(path: Path) -> list[tuple[str, str]]:
    """Return label and file stem of each video."""
    rows = []
    for line, row in csv_rows(path):
        try:
            start, end = int(float(row["time_start"])), int(float(row["time_end"]))
            label, youtube_id = row["label"].strip(), row["youtube_id"].strip()
            if not label or not youtube_id:
                raise ValueError("an empty label or youtube_id")
        except (KeyError, ValueError, OverflowError) as error:
            raise DamagedData(
                f"{path}, line {line}: expected label, youtube_id, time_start and time_end "
                f"({error!r}). The first test.csv had no labels."
            ) from error
        rows.append((label, f"{youtube_id}_{start:06d}_{end:06d}"))
    if not rows:
        raise DamagedData(f"{path} has no rows; fetch it again.")
    return rows


def _index(frames: Path | None, videos: Sequence[Path]) -> dict[str, Path]:
    """Return file stem → path of all frames, or of all videos where there is no folder of frames."""
    suffixes = VIDEO_SUFFIXES if frames is None else FRAME_SUFFIXES
    found = {}
    for top in videos if frames is None else [frames]:
        for folder, _, names in os.walk(top):
            for file in names:
                stem, suffix = os.path.splitext(file)  # noqa: PTH122  650,000 times, on plain names.
                if suffix.lower() in suffixes:
                    found[stem] = Path(folder, file)
    return found


def _split(
    name: str,
    root: Path,
    paths: Sequence[Path],
    labels: Sequence[int],
    class_names: Sequence[str],
    templates: tuple[str, ...],
    cache_dir: Path | None,
) -> Split:
    files = [path.relative_to(root).as_posix() for path in paths]
    found = image_split(name, root, files, labels, class_names, cache_dir, templates)
    if paths[0].suffix.lower() not in VIDEO_SUFFIXES:
        return found
    if importlib.util.find_spec("av") is None:
        raise DataNotFound(
            f"{name}: frames of videos are read with PyAV: pip install 'rwkvclip-eval[video]'. Or put the "
            f"middle frames into {root / 'frames'} as .jpg, named as the videos."
        )
    return replace(found, images=MiddleFrameReader(tuple(paths)))
