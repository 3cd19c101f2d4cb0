"""Rows of image tokens: what Pixtral, Mistral 3, GLM-4.xV and Fuyu alone owe."""

import copy
import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, FuyuImageProcessor, FuyuProcessor

from flmm.readers import FrozenVLM
from flmm.readers.families import find_family
from flmm.readers.loading import build_random_model
from flmm.readers.published_sizes import PUBLISHED_SIZES
from flmm.readers.stand_ins import find_stand_in
from flmm.readers.stand_ins.fuyu import build_piece_tokenizer
from tests.readers.conftest import EagerReference
from tests.readers.test_reader_contract import relative_difference
from tests.small_models import build_small_config, build_small_model, load_processor


def build_reader(data_dir, name, **options):
    return FrozenVLM.from_model(
        build_small_model(data_dir, name), load_processor(data_dir, name), **options
    )


def test_pictures_of_a_batch_are_padded_to_the_largest(data_dir, noise):
    vlm = build_reader(data_dir, "mistral3")
    images = [vlm.image_processor.encode(noise(*size)) for size in ((60, 150), (150, 60))]
    collated = vlm.collate(images)
    assert collated["pixel_values"].shape == (2, 3, 168, 168)
    assert collated["image_sizes"].tolist() == [[84, 168], [168, 84]]
    for pixels, image in zip(collated["pixel_values"], images):
        height, width = image.pixel_values.shape[-2:]
        assert pixels[:, :height, :width].equal(image.pixel_values[0])


def test_a_llavas_family_depends_on_its_tower(data_dir):
    kinds = {
        name: find_family(build_small_config(data_dir, name))
        for name in ("pixtral", "llava_padded")
    }
    assert {name: kind.__name__ for name, kind in kinds.items()} == {
        "pixtral": "Pixtral",
        "llava_padded": "Llava",
    }


def test_a_later_turn_begins_behind_the_answer_where_templates_take_strings(data_dir):
    """GLM-4.1V's template writes a list of parts as Python does."""
    config = build_small_config(data_dir, "glm4v")
    family = find_family(config)(config, load_processor(data_dir, "glm4v"))
    picture = "<|begin_of_image|><|image|><|end_of_image|>"
    assert family.render(1, is_first=True) == (
        f"[gMASK]<sop><|user|>\n{picture}",
        "<|assistant|>\n",
    )
    assert family.render(0, is_first=False) == ("<|user|>\n", "<|assistant|>\n")


def test_glm_of_the_other_class_is_read_as_in_one_eager_pass(noise):
    """No size is known to be published under this type, whose parts are GLM-4.1V's."""
    values = PUBLISHED_SIZES["GLM-4.1V-9B"] | {"model_type": "glm46v"}
    stand_in = find_stand_in(values)
    small = stand_in.shrink(values)
    processor = stand_in.make_processor(small)
    config = stand_in.build_config(small, processor)
    model = build_random_model(config, torch.float32, "sdpa", seed=0).eval()
    same = copy.deepcopy(model)
    same.set_attn_implementation("eager")
    vlm, image = FrozenVLM(model, processor=processor), noise(90, 150)
    prefix = vlm.prefill(image)
    seen = vlm.attend(prefix, "a red cup")
    eager = EagerReference(same, processor)
    ids, attentions, hidden_states = eager.read(image, vlm.default_prompt, "a red cup")
    rows = slice(len(prefix), len(ids))
    expected = attentions[:, rows].mean(1)[:, prefix.grids[0].columns]
    assert (type(model).__name__, type(processor).__name__) == (
        "Glm46VForConditionalGeneration",
        "Glm46VProcessor",
    )
    assert ids.tolist() == [*prefix.input_ids.tolist(), *seen.input_ids[0].tolist()]
    assert relative_difference(seen.maps[0], expected) < 1e-5
    assert relative_difference(seen.text_features[0], hidden_states[:, rows]) < 1e-5


def test_fuyu_is_not_read_without_its_picture(data_dir, noise):
    """The processor's own default hands over patches that the model does not look at."""
    vlm = build_reader(data_dir, "fuyu", image_options={"return_legacy_image_output": True})
    with pytest.raises(ValueError, match=r"gives .*image_patches.* and no pixel_values: the model"):
        vlm.prefill(noise(60, 90))


def test_what_a_person_writes_is_no_mark_of_fuyus(data_dir, noise):
    vlm = build_reader(data_dir, "fuyu")
    marks = ["|SPEAKER|", "|NEWLINE|", "<s>", "<0x04>"]
    ids = vlm.tokenizer.convert_tokens_to_ids(marks)
    text = f"a {' '.join(marks)} b"
    assert ids == vlm.processor.tokenizer.convert_tokens_to_ids(marks)
    assert set(ids) <= set(vlm.processor.tokenizer.encode(text, add_special_tokens=False))
    written = vlm.plain_text.encode_plain(text)[0]
    assert not set(ids) & set(written) and vlm.tokenizer.decode(written) == text
    prefix = vlm.prefill(noise(60, 90), text)
    assert [prefix.input_ids.tolist().count(index) for index in ids[2:]] == [1, 1]


def test_fuyus_published_values_are_those_of_its_files(data_dir):
    folder = data_dir / "processors" / "fuyu"
    values = json.loads((folder / "config.json").read_text())
    published = PUBLISHED_SIZES["Fuyu-8B"]
    text = AutoConfig.for_model(**published).text_config
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        assert getattr(text, name) == values[name]
    for name in ("vocab_size", "max_position_embeddings", "qk_layernorm", "hidden_act"):
        assert getattr(text, name) == values[name]
    for name in ("rope_theta", "partial_rotary_factor"):
        assert text.rope_parameters[name] == values[name]
    assert (published["image_size"], published["patch_size"]) == (300, values["patch_size"])
    real = FuyuImageProcessor.from_pretrained(folder)
    own = find_stand_in(published).make_processor(published).image_processor
    for name in ("size", "patch_size", "padding_value", "padding_mode"):
        assert getattr(real, name) == getattr(own, name)
    processor = FuyuProcessor(real, build_piece_tokenizer())
    config = find_stand_in(published).build_config(published, processor)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    vlm = FrozenVLM(model, processor=processor)
    (grid,) = vlm.image_processor.encode(torch.zeros(480, 640, 3, dtype=torch.uint8).numpy()).grids
    assert grid.size == (16, 22) and grid.box == (0, 0, 660, 480)
