"""Messages in the format of qwen-vl-utils: what it and the unified processor make of them."""

import base64
import io

import pytest
import torch
from PIL import Image
from qwen_vl_utils import process_vision_info

from tests.small_models import FAMILY_FOLDERS

FAMILIES = tuple(FAMILY_FOLDERS)
QUESTION = "Where is the tall man?"


@pytest.fixture(scope="module")
def photograph(data_dir):
    return data_dir / "coco" / "000000000785.jpg"


def build(element, text=QUESTION):
    return [{"role": "user", "content": [element, {"type": "text", "text": text}]}]


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"max_pixels": 40_000},
        {"min_pixels": 300_000},
        {"resized_height": 84, "resized_width": 224},
    ],
    ids=str,
)
def test_a_message_is_read_as_its_own_tools_do(vlm, eager, photograph, limits):
    messages = build({"type": "image", "image": str(photograph), **limits})
    patch = vlm.image_processor.patch_size
    pictures, _ = process_vision_info(messages, image_patch_size=patch)
    text = eager.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    inputs = eager.processor(text=[text], images=pictures, return_tensors="pt")
    prefix = vlm.prefill(messages)
    assert prefix.input_ids.tolist() == inputs["input_ids"][0].tolist()
    torch.testing.assert_close(
        vlm.collate([prefix.image_input])["pixel_values"], inputs["pixel_values"]
    )
    # Boxes and masks are in pixels of the picture as given, whatever the message resized it to.
    size = Image.open(photograph).size
    assert prefix.image_input.original_size == size[::-1]
    assert prefix.grids[0].box == (0, 0, *size)


def test_every_way_to_name_a_picture(vlm, photograph):
    with Image.open(photograph) as picture:
        small = picture.convert("RGB").resize((120, 90))
    stream = io.BytesIO()
    small.save(stream, "PNG")
    address = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
    expected = vlm.prefill({"type": "image", "image": small}, QUESTION)
    for element in ({"image": address}, {"image_url": address}):
        prefix = vlm.prefill(build({"type": "image", **element}))
        assert prefix.last_hidden_state.equal(expected.last_hidden_state)
    whole = vlm.prefill(
        [{"role": "user", "content": [{"type": "image", "image": f"file://{photograph}"}]}]
    )
    assert whole.input_ids.equal(vlm.prefill(photograph).input_ids)
    dialogue = vlm.converse(build({"type": "image", "image": small}))
    dialogue.ask(QUESTION)
    assert dialogue.input_ids == expected.input_ids.tolist()


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "Where?"}],
        [{"role": "assistant", "content": [{"type": "image", "image": "a.png"}]}],
        build({"type": "video", "video": "a.mp4"}),
        [*build({"type": "image", "image": "a.png"}), {"role": "assistant", "content": "There."}],
    ],
)
def test_more_than_a_turn_with_a_picture_is_told(vlm, messages):
    with pytest.raises(ValueError, match="go on with converse"):
        vlm.prefill(messages)


def test_an_element_without_a_picture_is_told(vlm):
    with pytest.raises(ValueError, match="has the keys type, url: give a picture under 'image'"):
        vlm.prefill({"type": "image", "url": "a.png"})
