"""A turned picture by every way: people see it upright, records count its pixels as stored.

The oracle is Pillow's own ``exif_transpose``. What the reader saw, what the refiner encoded, what
is drawn and what masks lie on must be one array.
"""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps

from flmm import GroundingInferencer
from flmm.apps.demo import draw_panels
from flmm.apps.explanation import explain
from flmm.apps.visual_cot import VisualCotOptions, run_visual_cot
from flmm.apps.web.pictures import read_upload
from flmm.apps.web.requests import Limits
from flmm.config import load_config
from flmm.data.refcoco import RefCocoGroundingDataset
from flmm.images import load_any_image
from flmm.toy.shape_files import write_dataset
from flmm.toy.shape_sentences import render_samples
from flmm.ways import BoxGrounder
from tests.visual_cot.shape_questions import write_questions

TINY = "configs/tiny/tiny_unet_sam_shapes.py"
SCENE = render_samples(1, seed=12)[0]
TAGS = range(1, 9)


@pytest.fixture(scope="module")
def inferencer():
    return GroundingInferencer(TINY, device="cpu")


def encode(pixels, tag, kind="PNG"):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = tag
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, exif=exif)
    return stream.getvalue()


def add_tag(path, tag):
    """The same pixels in the same file, with a tag."""
    with Image.open(path) as image:
        pixels = np.array(image)
    path.write_bytes(encode(pixels, tag))
    return pixels


@pytest.mark.parametrize("tag", TAGS)
def test_people_see_one_upright_picture_everywhere(inferencer, tmp_path, tag):
    path = tmp_path / "phone.png"
    path.write_bytes(encode(SCENE.image, tag))
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    result = inferencer(path, SCENE.phrases[:2], return_maps=True)
    assert np.array_equal(result.masks, inferencer(upright, SCENE.phrases[:2]).masks)
    assert result.masks.shape[1:] == upright.shape[:2]
    address = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    (batched,) = inferencer([address], SCENE.phrases[:2])
    assert np.array_equal(batched.masks, result.masks)

    loaded = load_any_image(str(path))  # the demo draws what it has grounded
    assert np.array_equal(loaded, upright)
    drawn = np.asarray(draw_panels(upright, result))
    with Image.open(path) as image:
        for picture in (loaded, image):
            assert np.array_equal(draw_panels(picture, result), drawn)
            (encoding,) = inferencer.model.sam.encode([picture])
            assert encoding.original_size == upright.shape[:2]

    with Image.open(path) as image:
        for picture in (path, address, path.read_bytes(), image, image.convert("RGB")):
            chat = inferencer.chat(picture)
            assert np.array_equal(chat.images[0].image, upright)
    chat.ask("What is it?", [str(path)], max_new_tokens=1)
    explanation = explain(chat)
    assert all(np.array_equal(image, upright) for image in explanation.images)
    assert len(explanation.images) == 2

    assert np.array_equal(read_upload(path.read_bytes(), "phone.png", Limits()).image, upright)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    write_dataset(folder, num_images=2, seed=3)
    return folder


def load_record(folder):
    processor = {"type": "QwenImageProcessorWrapper", "processor": "tiny"}
    dataset = RefCocoGroundingDataset(
        data_root=str(folder),
        ann_file="instances.json",
        split_file="refs(unc).p",
        data_prefix={"img_path": "images/"},
        split="train",
        text_mode="all",
        image_processor=processor,
    )
    return dataset[0]


def step(model, item):
    """A training step's losses, and what an evaluation predicts."""
    inputs, samples = [item["inputs"]], [item["data_samples"]]
    losses = model(inputs, samples, mode="loss")
    with torch.no_grad():
        (sample,) = model(inputs, samples, mode="predict")
    return {name: float(value.detach().sum()) for name, value in losses.items()}, sample.pred_masks


def test_a_turned_record_is_trained_and_evaluated_on_its_stored_pixels(inferencer, shapes):
    item = load_record(shapes)
    path = shapes / "images" / item["data_samples"].img_path.rpartition("/")[2]
    original = path.read_bytes()
    losses, masks = step(inferencer.model, item)
    baseline = BoxGrounder(inferencer.model.vlm, inferencer.model.sam, max_new_tokens=4).eval()
    for tag in (3, 6, 7):
        pixels = add_tag(path, tag)
        turned = load_record(shapes)
        assert np.array_equal(turned["inputs"].image, pixels)
        assert turned["data_samples"].gt_masks.shape[1:] == pixels.shape[:2]
        got, predicted = step(inferencer.model, turned)
        assert got == losses and torch.equal(predicted, masks)
        asked = [turned["data_samples"].continuations]
        ((result,),) = baseline.predict_images([turned["inputs"]], [asked])
        assert result.masks.shape == turned["data_samples"].gt_masks.shape
        path.write_bytes(original)


def test_questions_of_a_file_are_asked_about_the_stored_pixels(tmp_path):
    write_questions(tmp_path, count=1, seed=4)
    config = load_config(TINY, {"visual_cot.max_new_tokens": 4})
    paths = {"questions": str(tmp_path / "shapes.json"), "images": str(tmp_path)}
    seen = []
    for tag in (1, 6):
        add_tag(tmp_path / "cot/shapes/0.png", tag)
        options = VisualCotOptions(**paths, out=str(tmp_path / f"{tag}.json"), version="v2")
        run_visual_cot(config, options)
        seen.append((tmp_path / f"{tag}.json").read_text())
    assert seen[0] == seen[1]
