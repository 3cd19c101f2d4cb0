"""From a picture of any kind on disk to the grounder's input."""

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from flmm.data.grounding_dataset import BadRecordError
from flmm.data.transforms import (
    DecodeMasks,
    EncodeImage,
    LoadRGBImage,
)
from flmm.records import GroundingSample, ImageInput
from tests.toy_image_processor import ToyImageProcessor


def test_an_item_is_what_the_grounder_reads(build_dataset: Any, mini_refcoco: Path) -> None:
    item = build_dataset(text_mode="all")[0]
    inputs, sample = item["inputs"], item["data_samples"]
    assert isinstance(inputs, ImageInput)
    assert isinstance(sample, GroundingSample)
    picture = np.asarray(Image.open(mini_refcoco / "images" / "2.png"))
    assert np.array_equal(inputs.image, picture)
    assert sample.gt_masks.shape == (4, 31, 17)
    assert sample.img_path == str(mini_refcoco / "images" / "2.png")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_record_is_read_as_it_was_annotated(
    mini_refcoco: Path, build_dataset: Any, orientation: int, kind: str
) -> None:
    """Masks are given on the pixels as the file has them, whatever its EXIF tag says."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = mini_refcoco / "images" / "2.png"  # the name says little about the kind
    raw = draw_scene()[:31, :17]
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    Image.fromarray(raw).save(path, kind, exif=exif, **options)
    item = build_dataset(
        text_mode="all", image_processor={"type": "QwenImageProcessorWrapper", "processor": "tiny"}
    )[0]
    inputs, sample = item["inputs"], item["data_samples"]
    assert np.abs(inputs.image.astype(int) - raw).max() <= (5 if kind == "JPEG" else 0)
    assert sample.gt_masks.shape[1:] == raw.shape[:2] == inputs.original_size


def test_an_address_in_a_record_is_not_asked_for(mini_refcoco: Path) -> None:
    for name in ("http://127.0.0.1:9/x.png", "https://127.0.0.1:9/x.png", "file:///x.png"):
        record = {"img_path": name, "image_id": 5, "height": 4, "width": 8}
        with pytest.raises(BadRecordError, match=r"is an address, and only files .*image_id 5"):
            LoadRGBImage()(record)


def test_a_pipe_in_a_record_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    record = {"img_path": str(tmp_path / "x.png"), "image_id": 5, "height": 4, "width": 8}
    with pytest.raises(BadRecordError, match=r"is a pipe, socket or device.*\(image_id 5\)"):
        LoadRGBImage()(record)


def draw_scene() -> np.ndarray:
    """A smooth colour picture, uint8 RGB ``[60, 80, 3]``, that JPEG keeps within a few values."""
    ys, xs = np.mgrid[0:60, 0:80]
    return np.stack([xs * 3, ys * 4, 255 - xs - ys], -1).astype(np.uint8)


def save_odd_pictures(folder: Path) -> None:
    """The scene as the kinds of file that are found in the wild."""
    scene = draw_scene()
    image = Image.fromarray(scene)
    image.convert("CMYK").save(folder / "cmyk.jpg", quality=98)
    image.quantize(256).save(folder / "palette.png")
    image.quantize(256).save(folder / "palette.gif")
    image.quantize(255).save(folder / "transparent.png", transparency=b"\x80" * 40)
    image.convert("RGBA").save(folder / "alpha.png")
    image.save(folder / "progressive.jpg", progressive=True, quality=98)
    cv2.imwrite(str(folder / "deep.png"), scene[..., ::-1].astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "deep.tiff"), scene[..., ::-1])


@pytest.mark.filterwarnings("error")
def test_odd_files_show_what_opencv_sees_in_them(tmp_path: Path) -> None:
    save_odd_pictures(tmp_path)
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == 8
    for path in paths:
        record = {"img_path": str(path), "image_id": 1, "height": 60, "width": 80}
        seen = np.asarray(LoadRGBImage()(record)["image"]).astype(int)
        assert seen.shape == (60, 80, 3)
        if path.stem == "transparent":  # over white, as a person and the reader's own family do
            read = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(float)
            share = read[..., 3:] / 255
            assert 0 < share.mean() < 1
            blended = read[..., 2::-1] * share + 255 * (1 - share)
            assert np.abs(seen - blended).max() <= 1
            continue
        assert np.abs(seen - draw_scene()).mean() < (12 if "palette" in path.name else 4)
        if path.suffix != ".gif":
            read = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
            assert np.abs(seen - read[..., ::-1]).mean() < 2, path.name


@pytest.mark.parametrize("kept", [0, 10, 2000, 0.5, 0.95, -3])
def test_a_real_jpeg_that_is_cut_off_is_told(
    data_dir: Path, tmp_path: Path, kept: int | float
) -> None:
    content = (data_dir / "coco" / "000000000785.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(
        content[: int(kept * len(content)) if isinstance(kept, float) else kept]
    )
    with pytest.raises(ValueError, match=r"image .*cut\.jpg cannot be read: "):
        LoadRGBImage()(
            {"img_path": str(tmp_path / "cut.jpg"), "image_id": 5, "height": 4, "width": 8}
        )


def test_a_picture_that_is_missing_or_broken_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    record = {"img_path": str(path), "image_id": 5, "height": 40, "width": 80}
    with pytest.raises(
        FileNotFoundError, match=r"x\.png \(image_id 5\) does not exist: check data"
    ):
        LoadRGBImage()(record)
    path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"x\.png cannot be read"):
        LoadRGBImage()(record)
    Image.effect_noise((80, 40), 50).save(path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ValueError, match=r"x\.png cannot be read"):
        LoadRGBImage()(record)


def test_a_picture_of_another_size_than_annotated_is_told(tmp_path: Path) -> None:
    Image.new("RGB", (8, 4)).save(tmp_path / "x.png")
    record = {"img_path": str(tmp_path / "x.png"), "image_id": 5, "height": 8, "width": 4}
    with pytest.raises(ValueError, match=r"is 4 x 8 px \(h x w\), its annotation says 8 x 4"):
        LoadRGBImage()(record)


def test_a_mask_that_cannot_be_decoded_is_told() -> None:
    record = {"image_id": 1, "height": 3, "width": 4, "segmentations": {5: "?"}, "ref_ids": [5]}
    with pytest.raises(
        BadRecordError, match=r"mask of ref 5 \(image_id 1\) cannot be decoded: a segmentation is"
    ):
        DecodeMasks()(record)


def test_a_picture_that_the_reader_refuses_is_told() -> None:
    """Qwen's processor takes no picture that is 200 times as long as it is wide."""

    class Refusing(ToyImageProcessor):
        def encode(self, image: Image.Image) -> ImageInput:
            raise ValueError("absolute aspect ratio must be smaller than 200")

    record = {"image": Image.new("RGB", (2, 800)), "img_path": "thin.png", "image_id": 4}
    with pytest.raises(
        BadRecordError, match=r"thin\.png \(image_id 4\) cannot be encoded .* ratio must be"
    ):
        EncodeImage(Refusing())(record)


def test_one_processor_per_config_and_process() -> None:
    built = []

    def build_processor(name: str) -> Any:
        class Processor:
            def preprocess(self) -> None: ...

            def encode(self, image: Image.Image) -> ImageInput:
                return ImageInput(torch.zeros(3, 1, 1), {}, torch.zeros(1), [], np.asarray(image))

        built.append(name)
        return Processor()

    config = {"type": build_processor, "name": "a"}
    first, second = EncodeImage(dict(config)), EncodeImage(dict(config))
    other = EncodeImage({**config, "name": "b"})
    assert built == []
    for transform in (first, second, first, other):
        transform({"image": Image.new("RGB", (2, 2))})
    assert built == ["a", "b"]
