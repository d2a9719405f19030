import importlib.util
import re

import miniatures
import numpy as np
import pytest

from rwkvclip_eval.data.formats import reader_of
from rwkvclip_eval.data.formats.frames import KINETICS_TEMPLATES, UCF101_TEMPLATES, middle_frame, ucf101_names
from rwkvclip_eval.data.open import open_dataset
from rwkvclip_eval.data.samples import decode_image
from rwkvclip_eval.data.types import DatasetRef
from rwkvclip_eval.data.webdataset import open_webdataset
from rwkvclip_eval.errors import DamagedData, DataNotFound


def write_video(path, num_frames, codec="mpeg4"):
    """A video whose frame i is of one shade, 16 i."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for i in range(num_frames):
            pixels = np.full((32, 32, 3), 16 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture
def ucf101(tmp_path):
    """Lists 01 and 02 of three classes, one spelt otherwise than its videos, and frames of all videos."""
    train = [
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
        "HandstandPushups/v_HandStandPushups_g08_c01.avi",
    ]
    test = ["YoYo/v_YoYo_g01_c01.avi", "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi"]
    lists = {"trainlist01": train, "testlist01": test, "testlist02": train[:1]}
    miniatures.ucf101(tmp_path / "ucf101", ["ApplyEyeMakeup", "HandstandPushups", "YoYo"], lists)
    return tmp_path / "ucf101"


def test_ucf101_lists_choose_among_the_frames(ucf101):
    read = reader_of("ucf101")
    test = read(ucf101, "test", "default", ucf101)
    assert test.keys == ["frames/v_YoYo_g01_c01.jpg", "frames/v_ApplyEyeMakeup_g01_c01.jpg"]
    assert test.labels.tolist() == [2, 0]
    assert test.class_names == ("Apply Eye Makeup", "Hand Stand Pushups", "Yo Yo")
    train = read(ucf101, "train", "default", ucf101)
    assert train.labels.tolist() == [0, 1]
    assert read(ucf101, "test", "list02", ucf101).keys == ["frames/v_ApplyEyeMakeup_g08_c01.jpg"]


def test_names_and_templates_are_clips():
    folders = ["CleanAndJerk", "HandstandPushups", "HandstandWalking", "TaiChi", "Shotput", "YoYo"]
    assert ucf101_names(folders)[1:3] == ("Hand Stand Pushups", "Handstand Walking")
    assert len(set(UCF101_TEMPLATES)) == 48 and len(set(KINETICS_TEMPLATES)) == 28
    assert UCF101_TEMPLATES[:5] == (
        "a photo of a person {c}.",
        "a video of a person {c}.",
        "a example of a person {c}.",
        "a demonstration of a person {c}.",
        "a photo of the person {c}.",
    )
    assert UCF101_TEMPLATES[-1] == "a demonstration of the person practicing {c}."
    assert KINETICS_TEMPLATES[:3] == (
        "a photo of {c}.",
        "a photo of a person {c}.",
        "a photo of a person using {c}.",
    )


def test_ucf101_names_what_it_misses(ucf101):
    read = reader_of("ucf101")
    with pytest.raises(DataNotFound, match=r"no .*trainlist02\.txt"):
        read(ucf101, "train", "list02", ucf101)
    (ucf101 / "frames" / "v_YoYo_g01_c01.jpg").unlink()
    with pytest.raises(DataNotFound, match=r"1 of 2 videos are neither in .*: v_YoYo_g01_c01"):
        read(ucf101, "test", "default", ucf101)
    (ucf101 / "ucfTrainTestlist" / "classInd.txt").unlink()
    with pytest.raises(DataNotFound, match=r"no classInd\.txt"):
        read(ucf101, "test", "default", ucf101)


def test_without_frames_the_middle_one_is_decoded_from_the_video(ucf101):
    (ucf101 / "frames").rename(ucf101 / "elsewhere")
    write_video(ucf101 / "UCF-101" / "YoYo" / "v_YoYo_g01_c01.avi", 9)
    write_video(ucf101 / "UCF-101" / "ApplyEyeMakeup" / "v_ApplyEyeMakeup_g01_c01.avi", 6)
    test = reader_of("ucf101")(ucf101, "test", "default", ucf101)
    assert test.keys[0] == "UCF-101/YoYo/v_YoYo_g01_c01.avi"
    for i, middle in enumerate((4, 3)):
        image = test.images.read(i)
        assert image.size == (32, 32)
        assert abs(float(np.asarray(image).mean()) - 16 * middle) < 4


def test_prepare_cuts_the_middle_frames_of_videos_as_both_archives_name_them(ucf101, run, tmp_path):
    (ucf101 / "frames").rename(ucf101 / "elsewhere")
    # The zip has all videos in one folder, and its own spelling of one class.
    write_video(ucf101 / "UCF101" / "v_ApplyEyeMakeup_g08_c01.avi", 6)
    write_video(ucf101 / "UCF101" / "v_HandstandPushups_g08_c01.avi", 9)
    to = tmp_path / "data"
    code, _, err = run("data", "prepare", "ucf101", "--from", ucf101, "--data-root", to, "--split", "train")
    assert (code, err) == (0, "")
    back = open_webdataset(to / "wds_ucf101", "train", tmp_path)
    assert back.labels.tolist() == [0, 1]
    for i, middle in enumerate((3, 4)):
        pixels = np.asarray(decode_image(back.images.read(i), "here"))
        assert pixels.shape == (32, 32, 3) and abs(float(pixels.mean()) - 16 * middle) < 4


def test_a_video_that_cannot_be_decoded_becomes_a_damaged_image_and_ends_nothing(ucf101, run, tmp_path):
    (ucf101 / "frames").rename(ucf101 / "elsewhere")
    write_video(ucf101 / "UCF-101" / "ApplyEyeMakeup" / "v_ApplyEyeMakeup_g08_c01.avi", 6)
    broken = ucf101 / "UCF-101" / "HandstandPushups" / "v_HandStandPushups_g08_c01.avi"
    broken.parent.mkdir()
    broken.write_bytes(b"RIFF\x00\x00\x00\x00AVI nothing")
    to = tmp_path / "data"
    command = ("data", "prepare", "ucf101", "--from", ucf101, "--data-root", to, "--split", "train")
    told = f"1 of 2 could not be decoded and are damaged images in the shards, .*{broken.stem}"
    for _ in range(2):
        # Also of shards that an earlier call wrote.
        code, out, _ = run(*command)
        assert code == 0
        assert re.search(told, out)
    back = open_webdataset(to / "wds_ucf101", "train", tmp_path)
    assert back.labels.tolist() == [0, 1]
    assert decode_image(back.images.read(0), "here").size == (32, 32)
    with pytest.raises(DamagedData, match="not an image"):
        decode_image(back.images.read(1), "here")
    # A clip that is gone is another matter: nothing says that it is damaged.
    broken.unlink()
    with pytest.raises(FileNotFoundError):
        middle_frame(broken)


def test_a_file_that_is_no_video_is_told(tmp_path):
    write_video(tmp_path / "one.mp4", 1)
    assert middle_frame(tmp_path / "one.mp4").size == (32, 32)
    (tmp_path / "broken.avi").write_bytes(b"RIFF\x00\x00\x00\x00AVI nothing")
    with pytest.raises(ValueError, match="not a readable video"):
        middle_frame(tmp_path / "broken.avi")


def test_without_pyav_the_cure_is_named(ucf101, monkeypatch):
    (ucf101 / "frames").rename(ucf101 / "elsewhere")
    for name in ("YoYo/v_YoYo_g01_c01.avi", "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi"):
        path = ucf101 / "UCF-101" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"RIFF")
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "av" else real(name, *a)
    )
    with pytest.raises(DataNotFound, match=r"pip install 'rwkvclip-eval\[video\]'"):
        reader_of("ucf101")(ucf101, "test", "default", ucf101)


@pytest.fixture
def kinetics(tmp_path):
    """Four annotated videos, of which one is gone from the web."""
    rows = [
        "yoga,---QUuC4vJs,84,94,validate",
        '"passing American football (in game)",--07WQ2iBlw,1,11,validate',
        "abseiling,0o26_gone-s,105,115,validate",
        "yoga,abcdefghijk,3,13,validate",
    ]
    frames = [
        "yoga/---QUuC4vJs_000084_000094.jpg",
        "--07WQ2iBlw_000001_000011.jpg",
        "abcdefghijk_000003_000013.jpg",
    ]
    miniatures.kinetics700(tmp_path / "kinetics700", {"validate": rows}, frames)
    return tmp_path / "kinetics700"


def test_kinetics_takes_the_validation_videos_that_are_there(kinetics):
    test = reader_of("kinetics700")(kinetics, "test", "default", kinetics)
    assert test.class_names == ("abseiling", "passing American football (in game)", "yoga")
    assert [key.rpartition("/")[2] for key in test.keys] == [
        "---QUuC4vJs_000084_000094.jpg",
        "--07WQ2iBlw_000001_000011.jpg",
        "abcdefghijk_000003_000013.jpg",
    ]
    assert test.labels.tolist() == [2, 1, 2]


def test_kinetics_videos_in_class_folders_are_found(kinetics):
    (kinetics / "frames").rename(kinetics / "elsewhere")
    write_video(kinetics / "val" / "yoga" / "---QUuC4vJs_000084_000094.mp4", 5)
    (kinetics / "annotations").mkdir()
    (kinetics / "kinetics700" / "validate.csv").rename(kinetics / "annotations" / "val.csv")
    test = reader_of("kinetics700")(kinetics, "test", "default", kinetics)
    assert test.keys == ["val/yoga/---QUuC4vJs_000084_000094.mp4"]
    assert abs(float(np.asarray(test.images.read(0)).mean()) - 32) < 4


def test_kinetics_with_700_classes_opens_under_its_name(tmp_path):
    rows = [f"class {i:03d},{'abcdefghijk' if i == 7 else f'gone{i:07d}'},3,13,validate" for i in range(700)]
    frames = ["abcdefghijk_000003_000013.jpg"]
    miniatures.kinetics700(tmp_path / "kinetics700", {"validate": rows}, frames, folder="")
    dataset = open_dataset(DatasetRef(name="Kinetics700"), data_root=tmp_path, cache_dir=tmp_path)
    assert dataset.labels.tolist() == [7]
    assert dataset.info.primary_metric == "mean_top1_top5_accuracy"
    assert dataset.info.subset and not dataset.info.verified


def test_kinetics_names_what_it_misses(kinetics):
    read = reader_of("kinetics700")
    with pytest.raises(DataNotFound, match=r"no .*train\.csv"):
        read(kinetics, "train", "default", kinetics)
    (kinetics / "frames").rename(kinetics / "elsewhere")
    with pytest.raises(DataNotFound, match=r"none of the 4 videos .* such as ---QUuC4vJs_000084_000094\.jpg"):
        read(kinetics, "test", "default", kinetics)
    (kinetics / "kinetics700" / "validate.csv").write_text(
        "youtube_id,time_start,time_end,split\nabc,1,2,test\n"
    )
    with pytest.raises(DamagedData, match="line 2: expected label"):
        read(kinetics, "test", "default", kinetics)
