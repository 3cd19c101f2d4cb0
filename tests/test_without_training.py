"""A reader and a refiner by name, and masks: no config, no checkpoint, no training."""

import argparse
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from mmengine.logging import MMLogger
from PIL import Image
from safetensors.torch import save_file

from flmm import GroundingInferencer, load_reader
from flmm.apps.opening import open_inferencer
from flmm.command_line import add_model_arguments
from flmm.head_choice import HeadChoice
from flmm.masks import SecondLook
from flmm.masks.refiners.segment_anything import TINY_WEIGHTS
from flmm.readers.loading import TINY_FOLDER
from flmm.sharing.exporting import export_checkpoint
from flmm.toy.shape_sentences import render_samples
from flmm.without_training.parts import configure, configure_refiner
from tests.forks import run_fork
from tests.small_models import FAMILY_FOLDERS, save_small_folder

FAMILIES = [name for name in FAMILY_FOLDERS if not name.endswith("moe")]
CHOICE = HeadChoice(
    ((2, 1), (3, 4), (1, 0)), 5, 6, "the toy (qwen2_5_vl)", "labels", "val of data/shapes/"
)
OTHERS = HeadChoice(((2, 1),), 28, 28, "another reader", "labels")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where choices are kept: never the folder of whoever runs the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "flmm" / "heads"


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the log says."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """The toy under another name: a reader of which the package brings no heads."""
    folder = tmp_path_factory.mktemp("readers") / "Strange-Reader"
    shutil.copytree(TINY_FOLDER, folder)
    return load_reader(folder, dtype="float32", token_merge="last")


@pytest.fixture(scope="module")
def scenes():
    return render_samples(3, seed=12)


def open_tiny(reader="tiny", **options):
    return GroundingInferencer.from_reader(reader, "tiny", device="cpu", **options)


@pytest.mark.parametrize(
    "family", [FAMILIES[0], *(pytest.param(name, marks=pytest.mark.heavy) for name in FAMILIES[1:])]
)
def test_real_processors_and_vit_b_give_masks_of_a_photograph(
    family, data_dir, tmp_path, cache, told
):
    photograph = Image.open(data_dir / "coco" / "000000039769.png").convert("RGB")
    phrases = ["the cat on the left", "a remote control"]
    refiner = {"type": "SAMRefiner", "model_name": "vit_b", "checkpoint": None}
    folder = save_small_folder(data_dir, family, tmp_path / family)
    grounder = GroundingInferencer.from_reader(folder, refiner, device="cpu")
    sam = grounder.model.sam
    assert sam.mask_prompt_size == (256, 256) and sam.embed_dim == 256
    sam.sam.image_encoder.blocks = sam.sam.image_encoder.blocks[:1]  # twelve take half a minute
    assert f"no heads were chosen for {family}, qwen" in told.text
    result = grounder(photograph, phrases, return_maps=True)
    assert result.masks.shape == (2, 480, 640) and result.phrases == phrases
    assert np.ptp(result.coarse_mask_logits, axis=(1, 2)).min() > 0
    (kept,) = cache.glob(f"{family}_4x4_*.json")
    choice = json.loads(kept.read_text())
    assert choice["method"] == "no labels" and "of 1 pictures" in choice["source"]
    assert ": no labels, 2 phrases of 1 pictures" in told.text
    assert f", kept in {kept}" in told.text
    assert "few pictures to choose heads from (1): name 8 or more" in told.text


def test_a_choice_is_kept_until_other_pictures_are_named(stranger, scenes, cache, told):
    named = [(scene.image, scene.phrases) for scene in scenes]
    first = open_tiny(stranger, pictures=named)
    (path,) = cache.iterdir()
    kept, text = path.read_bytes(), told.text
    assert "of 3 pictures" in text and f"kept in {path}" in text
    told.clear()
    again = open_tiny(stranger, pictures=named)
    assert f"as kept in {path}" in told.text and path.read_bytes() == kept
    told.clear()
    assert open_tiny(stranger).model.mask_head.choice == first.model.mask_head.choice
    assert f"as kept in {path}" in told.text
    picture = scenes[0]
    for one, two in zip(*(item(picture.image, picture.phrases) for item in (first, again))):
        assert np.array_equal(one.mask, two.mask)
    open_tiny(stranger, pictures=[scene.image for scene in scenes])  # its own words name things
    assert path.read_bytes() != kept
    path.write_text("{")
    told.clear()
    assert open_tiny(stranger).model.mask_head is not None
    assert "is no choice of heads" in told.text and "it is passed over" in told.text


def test_a_batch_chooses_from_all_its_pictures_and_a_chat_from_its_one(stranger, scenes, told):
    grounder = open_tiny(stranger)
    with pytest.raises(ValueError, match="no heads of this reader have been chosen yet: ground a"):
        grounder.save_pretrained("nowhere")
    results = grounder([scene.image for scene in scenes], [scene.phrases for scene in scenes])
    assert len(results) == 3 and "of 3 pictures" in told.text
    told.clear()
    turn = open_tiny(stranger, heads=None).chat(scenes[0].image).ask("Is it [the star]?", begin="a")
    assert "as kept in" in told.text and turn.phrases[0].text == "the star"


def test_threads_that_come_at_once_choose_once(stranger, scenes, told):
    grounder = open_tiny(stranger)
    told.clear()

    def ground(scene):
        return grounder(scene.image, scene.phrases).masks

    with ThreadPoolExecutor(3) as pool:
        masks = list(pool.map(ground, scenes))
    assert told.text.count("kept in") == 1
    for scene, mask in zip(scenes, masks):
        assert np.array_equal(ground(scene), mask)


def test_a_chat_alone_chooses_before_it_begins(stranger, scenes, cache):
    grounder = open_tiny(stranger)
    chat = grounder.chat(scenes[0].image)
    assert len(list(cache.iterdir())) == 1
    assert chat.ask("Where is [the star]?", begin="a").phrases


def test_heads_travel_within_the_config(scenes, tmp_path):
    path = CHOICE.save_json(tmp_path / "heads.json")
    here = open_tiny(heads=path, cfg_options={"model.second_look.max_share": 0.2})
    assert here.weights.describe().endswith("nothing was trained")
    here.save_pretrained(tmp_path / "shared")
    path.unlink()
    card = (tmp_path / "shared" / "README.md").read_text()
    assert "Nothing was trained" in card and "Trained values" not in card
    there = GroundingInferencer.from_pretrained(tmp_path / "shared", device="cpu")
    assert there.model.mask_head.choice == here.model.mask_head.choice
    assert there.model.second_look == here.model.second_look == SecondLook(max_share=0.2)
    scene = scenes[0]
    masks = [item(scene.image, scene.phrases).masks for item in (here, there)]
    assert masks[0].any() and np.array_equal(*masks)
    record = tmp_path / "shared" / "config.json"
    content = json.loads(record.read_text())
    exported = export_checkpoint(here.config, "published", tmp_path / "exported")
    assert json.loads((exported / "config.json").read_text()) == content
    content["model"]["mask_head"]["choice"] = "heads.json"
    record.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"choice is 'heads\.json', and a shared head leads to no"):
        GroundingInferencer.from_pretrained(tmp_path / "shared")
    content["model"]["second_look"] = {"max_share": "0.2"}
    record.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"second_look is .+: it holds numbers"):
        GroundingInferencer.from_pretrained(tmp_path / "shared")


def test_boxes_point_through_the_same_door(stranger, scenes, tmp_path):
    scene, short = scenes[0], {"model.max_new_tokens": 4}
    both = open_tiny(stranger, heads=CHOICE, way="both", cfg_options=short)
    assert both(scene.image, scene.phrases).masks.any()  # no box can be read: the map points
    box = open_tiny(way="box", cfg_options=short)
    assert "box" in box(scene.image, "red star")[0].problem
    box.save_pretrained(tmp_path / "box")
    again = GroundingInferencer.from_pretrained(tmp_path / "box", device="cpu")
    assert again.model.max_new_tokens == 4 and not again.model.uses_maps
    with pytest.raises(ValueError, match="boxes alone point here, and no head: leave heads"):
        open_tiny(stranger, heads=CHOICE, way="box")


def test_refiners_are_told_by_what_lies_there(tmp_path):
    given = {"type": "SAMRefiner", "model_name": "tiny", "use_mask": True, "use_box": False}
    built = configure("tiny", given).model.sam
    assert {name: built[name] for name in given} == given
    assert configure_refiner("tiny")["model_name"] == "tiny"
    assert configure_refiner(TINY_WEIGHTS) == {
        **{"type": "SAMRefiner", "model_name": "tiny"},
        **{"checkpoint": str(TINY_WEIGHTS), "use_text": False},
    }
    for model_type, name in (("sam2", "Sam2Refiner"), ("sam_hq", "SamHQRefiner")):
        folder = tmp_path / model_type
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
        found = configure_refiner(folder)
        assert (found["type"], found["name_or_path"]) == (name, str(folder))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": "OTHERS"}, r"chosen for a reader of 28 layers x 28 heads \(another reader\)"),
        ({"heads": [(5, 0)]}, "head 0 of layer 5 is outside of the reader, which has 5 layers"),
        ({"heads": "nowhere.json"}, r"head choice nowhere\.json does not exist"),
        ({"way": "telepathy"}, "way is 'telepathy': give one of 'attention', 'box', 'both'"),
        (
            {"refiner": "vit_b"},
            r"checkpoints/sam_vit_b_01ec64\.pth are not here: download "
            r"https://dl\.fbaipublicfiles\.com/segment_anything/sam_vit_b_01ec64\.pth into",
        ),
        ({"refiner": "nowhere.pth"}, r"SAM checkpoint nowhere\.pth does not exist: download it"),
        ({"refiner": "ODD"}, "holds no model of segment-anything's: give one of tiny, vit_b"),
        ({"refiner": "owner/none"}, "there is no refiner owner/none: give vit_b, vit_l, vit_h or"),
        ({"refiner": str(TINY_FOLDER)}, r"is a model of type qwen2_5_vl: give one of sam2, sam2_"),
        ({"cfg_options": {"model.mask_head.treshold": 1}}, "did you mean 'threshold'"),
    ],
)
def test_mistakes_are_told_in_one_sentence(options, message, tmp_path, monkeypatch, stranger):
    monkeypatch.chdir(tmp_path)
    save_file({"a": stranger.model.get_input_embeddings().weight[:1].clone()}, "odd.safetensors")
    places = {"OTHERS": OTHERS.save_json(tmp_path / "others.json"), "ODD": "odd.safetensors"}
    options = {name: places.get(str(value), value) for name, value in options.items()}
    given = {"refiner": "tiny", **options}
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        GroundingInferencer.from_reader(stranger, device="cpu", **given)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--heads heads.json", "--heads goes with --reader READER, and not with a config"),
        ("--choose-from a.png b.png", "--choose-from goes with --reader"),
        ("--reader tiny --config tiny", "--reader stands in place of --config and --checkpoint"),
        ("--reader tiny", r"sam_vit_b_01ec64\.pth are not here"),
        ("--reader tiny --refiner none --heads OTHERS", "chosen for a reader of 28 layers x 28"),
    ],
)
def test_a_command_line_names_one_model(line, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = line.replace("OTHERS", str(OTHERS.save_json(tmp_path / "others.json")))
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_inferencer(parser.parse_args(line.split()))


@pytest.mark.process
def test_the_demo_takes_a_reader_and_a_refiner(tmp_path):
    heads = ("--heads", CHOICE.save_json(tmp_path / "heads.json"))
    model = ("--reader", "tiny", "--refiner", "tiny", "--device", "cpu")
    options = ("--out", tmp_path / "out", "--samples", 1)
    done = run_fork("tools/demo.py", *model, *heads, *options)
    assert done.returncode == 0, done.stderr
    assert (
        "heads 2.1, 3.4, 1.0 (layer.head, the best) of the toy (qwen2_5_vl): labels, val"
        in done.stdout + done.stderr
    )
    assert "weights: reader and refiner as published, nothing was trained" in done.stdout
    assert (tmp_path / "out" / "sample_1.png").is_file()
    done = run_fork("tools/demo.py", *model[:2], *options)
    assert done.returncode == 1 and "sam_vit_b_01ec64.pth are not here: download" in done.stderr
