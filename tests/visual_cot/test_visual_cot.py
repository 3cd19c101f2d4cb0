"""Name, point, look again, answer: on drawn scenes, and against transformers' own answers."""

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from flmm import GroundingInferencer
from flmm.apps.visual_cot import VERSIONS, VisualCot, VisualCotSettings
from flmm.apps.visual_cot.chain import find_name
from flmm.apps.visual_cot.questions import read_question_files
from flmm.apps.visual_cot.settings import build_settings
from flmm.grounder import Grounder
from flmm.masks import UNetHead
from flmm.readers import FrozenVLM
from tests.small_models import build_small_model, load_processor
from tests.visual_cot.shape_questions import write_questions

# The toy knows no instructions; it goes on where these words stop.
TOY = VisualCotSettings(naming_prompt="{question}", naming_begin="the", max_new_tokens=12)
QUESTION = "左边的杯子 is full of what?"


@pytest.fixture(scope="module")
def inferencer():
    return GroundingInferencer("configs/tiny/tiny_unet_sam_shapes.py", device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("questions")


@pytest.fixture(scope="module")
def questions(folder):
    (file,) = read_question_files(write_questions(folder, count=8, seed=2))
    return list(file.questions.values())


class Everything:
    """A selector that points at a given range of the answer."""

    def __init__(self, span):
        self.span = span

    def select(self, answer):
        return [self.span]


def test_the_plain_answer_is_the_readers_own(inferencer, folder, questions):
    visual_cot = VisualCot(inferencer, "v3")
    for question in questions[:4]:
        answer = visual_cot(folder / question.image, question.question)
        prompt = f"{question.question}\nAnswer the question using a single word or phrase."
        own = inferencer.describe(folder / question.image, prompt, max_new_tokens=32)
        assert answer.answer == own.strip()
        assert (answer.thought, answer.mask, answer.fallback) == ("", None, None)
        height, width = inferencer.chat(folder / question.image).images[0].original_size
        assert answer.box_xyxy == (0, 0, width, height)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_what_is_pointed_at_lies_in_what_is_looked_at(inferencer, folder, questions, version):
    visual_cot = VisualCot(inferencer, version, TOY)
    ious = []
    for question in questions:
        answer = visual_cot(folder / question.image, question.question)
        ious.append(0.0)
        if answer.mask is not None:
            rows, columns = (answer.mask.any(axis).nonzero()[0] for axis in (1, 0))
            x0, y0, x1, y1 = answer.box_xyxy
            assert x0 <= columns[0] <= columns[-1] < x1 and y0 <= rows[0] <= rows[-1] < y1
            assert x1 - x0 >= 16 and y1 - y0 >= 16 and 0 < answer.score <= 1
            pair = (answer.pointed_box_xyxy, question.gt_box_xyxy)
            ious[-1] = float(box_iou(*(torch.tensor([box]) for box in pair)))
    assert np.mean(ious) > 0.5  # the embedded model really points


def test_the_mask_is_that_of_the_words_in_a_conversation(inferencer, folder, questions):
    for question in questions[:3]:
        path = folder / question.image
        named = VisualCot(inferencer, "v1", TOY)(path, question.question)
        chat = inferencer.chat(path, ["brackets"])
        said = chat.ask(question.question, begin="the", max_new_tokens=16)
        start = said.text.index(named.thought, 3)
        chat.undo()
        span = Everything((start, start + len(named.thought)))
        turn = chat.ask(question.question, begin="the", max_new_tokens=16, select=[span])
        assert (turn.phrases[0].mask == named.mask).all()
        asked = VisualCot(inferencer, "v2", TOY)(path, question.question)
        chat = inferencer.chat(path, ["brackets"])
        turn = chat.ask(f"[{question.question}]", max_new_tokens=1)
        assert (turn.phrases[0].mask == asked.mask).all() and asked.thought == ""


def test_every_picture_is_read_once(inferencer, folder, questions):
    seen = []
    model = inferencer.model.vlm.model.model
    hook = model.visual.register_forward_hook(lambda *_: seen.append(1))
    try:
        for version in VERSIONS:
            picture = folder / questions[5].image
            answer = VisualCot(inferencer, version, TOY)(picture, questions[5].question)
            assert answer.fallback is None
    finally:
        hook.remove()
    assert len(seen) == 3  # the picture once for all versions, a part of it in v1 and in v2


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl", "llava_next", "internvl"])
def family(request, data_dir):
    """A random reader with a random mask head, its processor, and a picture."""
    processor = load_processor(data_dir, request.param)
    reader = FrozenVLM.from_model(build_small_model(data_dir, request.param), processor)
    torch.manual_seed(0)
    grounder = Grounder(reader, UNetHead(in_channels=reader.num_channels, base_channels=8))
    picture = np.random.default_rng(0).integers(0, 255, (150, 110, 3), dtype=np.uint8)
    return grounder.eval(), processor, picture


def generate(reader, processor, pictures, text, count):
    """Transformers' own greedy answer to a user turn of pictures and text."""
    content = [{"type": "image"}] * len(pictures) + [{"type": "text", "text": text}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    inputs = processor(text=[prompt], images=pictures, return_tensors="pt")
    greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    output = reader.model.generate(**inputs, max_new_tokens=count, **greedy)
    ids = output[0, inputs["input_ids"].shape[1] :]
    return processor.tokenizer.decode(ids, skip_special_tokens=True).strip()


def find_bias(grounder):
    """The last bias of the mask head: raises or lowers all its logits."""
    return [bias for name, bias in grounder.mask_head.named_parameters() if "bias" in name][-1]


@pytest.mark.parametrize("version", VERSIONS)
def test_answers_are_transformers_own_to_both_pictures(family, version):
    grounder, processor, picture = family
    with torch.no_grad():
        find_bias(grounder).fill_(0.0)
    settings = VisualCotSettings(max_new_tokens=6, max_thought_tokens=4)
    visual_cot = VisualCot(GroundingInferencer.from_model(grounder), version, settings)
    answer = visual_cot(picture, QUESTION)
    x0, y0, x1, y1 = answer.box_xyxy
    looked_at = {"v3": [picture]}.get(version, [picture, picture[y0:y1, x0:x1]])
    prompt = settings.answer_prompt if version == "v3" else settings.second_look_prompt
    assert answer.fallback is None
    expected = generate(
        grounder.vlm, processor, looked_at, prompt.replace("{question}", QUESTION), 6
    )
    assert answer.answer == expected != ""


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_an_empty_mask_falls_back_to_the_whole_picture(family, version):
    grounder, processor, picture = family
    with torch.no_grad():
        find_bias(grounder).fill_(-1e4)
    settings = VisualCotSettings(max_new_tokens=4, max_thought_tokens=4)
    inferencer = GroundingInferencer.from_model(grounder)
    answer = VisualCot(inferencer, version, settings)(picture, QUESTION)
    spoken = answer.thought if version == "v1" else QUESTION
    assert spoken and answer.fallback == f"the mask of {spoken!r} is empty"
    assert answer.box_xyxy == (0, 0, 110, 150)
    assert (answer.mask, answer.pointed_box_xyxy, answer.score) == (None, None, 0.0)
    plain = settings.answer_prompt.replace("{question}", QUESTION)
    assert answer.answer == generate(grounder.vlm, processor, [picture], plain, 4)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("It is the red cup.", "the red cup"),
        ("It is:\n\n**The red cup** on the left. It is full", "The red cup** on the left"),
        ("It is version 2.5 of it", "version 2.5 of it"),
        ("It is a cup\nand more", "a cup"),
        ("It is：左边的杯子。它是满的", "左边的杯子"),
        ("It is ...", None),
        ("It is", None),
    ],
)
def test_the_name_is_the_first_sentence(text, name):
    span = find_name(text, len("It is"))
    assert (None if span is None else text[slice(*span)]) == name


def test_a_reader_that_names_nothing(inferencer, folder, questions):
    # Behind a whole caption the toy has nothing to add.
    begin = "a big red circle top left, a small blue square bottom center."
    silent = VisualCotSettings(naming_prompt="Describe: {question}", naming_begin=begin)
    path, question = folder / questions[0].image, questions[0].question
    answer = VisualCot(inferencer, "v1", silent)(path, question)
    assert (answer.thought, answer.fallback) == ("", "the reader named no object")
    assert answer.answer == VisualCot(inferencer, "v3", silent)(path, question).answer


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"naming_prompt": "What?"}, r"naming_prompt has no \{question\}"),
        ({"crop_scale": 0.5}, "crop_scale is 0.5: give at least 1"),
        ({"max_tokens": 3}, "visual_cot has no max_tokens: its keys are naming_prompt"),
    ],
)
def test_wrong_settings_are_told(values, message):
    with pytest.raises(ValueError, match=message):
        build_settings(values)


def test_an_unknown_version_is_told(inferencer):
    with pytest.raises(ValueError, match="no version 'v4': choose of v1, v2, v3"):
        VisualCot(inferencer, "v4")


def test_a_blank_question_is_told(inferencer, folder, questions):
    with pytest.raises(ValueError, match="give at least one word"):
        VisualCot(inferencer, "v1")(folder / questions[0].image, " ")
