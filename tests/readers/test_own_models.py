"""Models of our own against what the published code gave, and their published key names."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from flmm.readers import FrozenVLM
from flmm.readers.families import find_family
from flmm.readers.loading import load_config, load_model, load_processor
from flmm.readers.own_models import OWN_MODELS
from flmm.readers.own_models.qwen_vl_processor import CONTROL_TOKENS
from flmm.readers.own_models.vision_language import build_image_processor
from flmm.readers.prompts import ContextFullError
from tests.readers.test_reader_contract import relative_difference

BYTES = 256


@pytest.fixture(scope="module")
def published(data_dir, tmp_path_factory):
    """A folder as published: values and key names of the oracle."""
    folder, oracles = tmp_path_factory.mktemp("qwen_vl"), data_dir / "oracles"
    told = json.loads((oracles / "qwen_vl_v1_config.json").read_text())
    values = {"model_type": "qwen", **told["text"], "visual": told["visual"]}
    (folder / "config.json").write_text(json.dumps(values))
    shutil.copy(oracles / "qwen_vl_v1_tiny.safetensors", folder / "model.safetensors")
    return folder


def test_qwen_vl_equals_the_published_code(published, data_dir):
    """Numbers that it gave for random weights: the one proof that is not our own code."""
    config = load_config(published)
    model = load_model(published, config, "float32", "eager")
    expected = load_file(data_dir / "oracles" / "qwen_vl_v1_expected.safetensors")
    with torch.no_grad():
        seen = model.model.visual(expected["pixel_values"])
        output = model.model(
            expected["input_ids"], expected["pixel_values"], output_attentions=True
        )
    assert relative_difference(seen, expected["visual"]) < 1e-5
    assert relative_difference(output.last_hidden_state, expected["last_hidden_state"]) < 1e-5
    for layer, attentions in enumerate(output.attentions):
        assert relative_difference(attentions, expected[f"attentions.{layer}"]) < 1e-5


def test_published_weights_are_read_whole_from_shards_and_from_pickles(published, tmp_path):
    config = load_config(published)
    weights = load_file(published / "model.safetensors")
    whole = load_model(published, config, "float32", "sdpa").state_dict()
    names = sorted(weights)
    shards = {"a": names[::2], "b": names[1::2]}  # a layer's parts lie in several
    for kind, suffix, save in (
        ("model", "safetensors", save_file),
        ("pytorch_model", "bin", torch.save),
    ):
        folder = tmp_path / suffix
        folder.mkdir()
        shutil.copy(published / "config.json", folder)
        for shard, own in shards.items():
            save({name: weights[name] for name in own}, folder / f"{shard}.{suffix}")
        index = {name: f"{shard}.{suffix}" for shard, own in shards.items() for name in own}
        file = folder / f"{kind}.{suffix}.index.json"
        file.write_text(json.dumps({"metadata": {}, "weight_map": index}))
        read = load_model(folder, config, "float32", "sdpa").state_dict()
        assert read.keys() == whole.keys()
        assert all(torch.equal(read[name], whole[name]) for name in whole)


def test_a_missing_weight_is_named(published, tmp_path):
    weights = load_file(published / "model.safetensors")
    del weights["transformer.h.1.attn.c_attn.bias"]
    save_file(weights, tmp_path / "model.safetensors")
    shutil.copy(published / "config.json", tmp_path)
    with pytest.raises(ValueError, match=r"lack 3 tensors .*layers.1.self_attn.k_proj.bias"):
        load_model(tmp_path, load_config(published), "float32", "sdpa")


def read_published_names(folder):
    """Key names of the float weights that were quantised to those of an index.

    Four tensors are then a weight's, and layers without a bias were given one.
    """
    names = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    names = {re.sub(r"\.(qweight|qzeros|scales|g_idx)$", ".weight", name) for name in names}
    return {name for name in names if not re.search(r"\.h\..*(c_proj|w1|w2)\.bias$", name)}


def test_the_published_index_names_every_tensor_of_the_full_model_and_no_other(data_dir):
    folder = data_dir / "processors" / "qwen_vl_v1"
    config = load_config(folder)
    (own,) = [own for own in OWN_MODELS if isinstance(config, own.config_class)]
    with torch.device("meta"):
        model = own.model_class(config)
    assert 9.5e9 < sum(weight.numel() for weight in model.parameters()) < 9.8e9
    saved = {}
    names = read_published_names(folder)
    for name in names:
        place = name
        for step in own.weights:
            place, _ = step.rename_source_key(place)
        parts = [place.replace("q_proj", f"{part}_proj") for part in "qkv"]
        saved |= dict.fromkeys(parts if "c_attn" in name else [place], name)
    assert saved.keys() == model.state_dict().keys() and len(names) == len(set(saved.values()))


@pytest.fixture
def small_folder(published, data_dir, tmp_path):
    """As published, without weights: the tokenizer knows bytes and control tokens alone."""
    folder = tmp_path / "published"
    folder.mkdir()
    values = json.loads((published / "config.json").read_text())
    values["vocab_size"] = BYTES + len(CONTROL_TOKENS)
    values["visual"]["image_start_id"] = BYTES + CONTROL_TOKENS.index("<img>")
    (folder / "config.json").write_text(json.dumps(values))
    ranks = (data_dir / "processors" / "qwen_vl_v1" / "qwen.tiktoken").read_text().splitlines()
    (folder / "qwen.tiktoken").write_text("\n".join(ranks[:BYTES]))
    return folder


def test_a_saved_folder_is_read_again(small_folder, tmp_path, noise):
    first = FrozenVLM(small_folder, dtype="float32", random_init=True)
    assert first.max_tokens == 2048
    first.model.save_pretrained(tmp_path / "saved")
    first.processor.save_pretrained(tmp_path / "saved")
    names = set(load_file(tmp_path / "saved" / "model.safetensors"))
    assert "transformer.h.0.attn.c_attn.weight" in names and "lm_head.weight" in names
    again = FrozenVLM(tmp_path / "saved", dtype="float32")
    readings = [vlm.prefill(noise(50, 80)) for vlm in (first, again)]
    assert readings[0].grid_hw == (16, 16)
    seen = [vlm.attend(own, ["a cup"]).maps for vlm, own in zip((first, again), readings)]
    assert torch.equal(*seen)
    assert again.render_prompt("Hi") == first.render_prompt("Hi")
    assert again.tokenizer.eos_token == "<|im_end|>"


def test_what_the_published_code_would_rescale_is_refused(small_folder, noise):
    vlm = FrozenVLM(small_folder, dtype="float32", random_init=True)
    with pytest.raises(ContextFullError, match="the picture holds 256, and the model reads 2048"):
        vlm.prefill(noise(50, 80), "a " * 1000)


def test_token_ids_are_those_of_the_next_generation(data_dir):
    """Qwen2.5 has the same ranks, in other files."""
    folder = data_dir / "processors" / "qwen_vl_v1"
    own = load_processor(folder).tokenizer
    other = AutoTokenizer.from_pretrained(data_dir / "qwen" / "Qwen2_5_VL")
    records = json.loads((data_dir / "refcoco" / "expressions_refcocog_val.json").read_text())
    texts = [record["expression"] for record in records]
    for text in [*texts, "左边的红色杯子", "a\n\n b 12345", "naïve cafe\u0301", "🙂 鑫龘"]:
        assert own.encode(text) == other.encode(text)
    known = {"<|endoftext|>": 151643, "<|im_end|>": 151645, "<ref>": 151851, "</box>": 151854}
    known |= {"<img>": 151857, "</img>": 151858, "<imgpad>": 151859}
    assert {name: own.convert_tokens_to_ids(name) for name in known} == known


def test_the_model_that_was_not_tuned_to_chat_goes_on_with_the_text(small_folder):
    (small_folder / "generation_config.json").write_text('{"chat_format": "raw"}')
    processor = load_processor(small_folder)
    content = [{"type": "image"}, {"type": "text", "text": "Describe it:"}]
    messages = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == "Picture 1: <img><imgpad></img>\nDescribe it:"
    assert processor.tokenizer.eos_token == "<|endoftext|>"


def test_what_is_not_converted_is_refused(data_dir, small_folder):
    quantised = load_config(data_dir / "processors" / "qwen_vl_v1")
    processor = load_processor(small_folder)
    quantised.image_token_id = processor.image_token_id
    with pytest.raises(ValueError, match=r"quantised to few bits.*give Qwen/Qwen-VL-Chat"):
        find_family(quantised)(quantised, processor)
    del quantised.quantization_config
    processor.image_seq_length = 4
    with pytest.raises(ValueError, match="makes 256 tokens of a picture, the processor writes 4"):
        find_family(quantised)(quantised, processor)
    (small_folder / "qwen.tiktoken").unlink()
    with pytest.raises(OSError, match="no processor can be loaded") as caught:
        load_processor(small_folder)
    assert "no qwen.tiktoken beside the config" in str(caught.value.__cause__)
    values = json.loads((data_dir / "processors" / "qwen_vl_v1" / "config.json").read_text())
    del values["visual"]  # a text model
    (small_folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(OSError, match="needs code of its own, which flmm does not run"):
        load_config(small_folder)


def test_a_picture_is_squashed_as_the_published_code_does(noise):
    """Which resizes with Pillow."""
    picture, channels = Image.fromarray(noise(300, 500)), (1, 3, 1, 1)
    mean, std = (torch.tensor(item).view(channels) for item in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    made = build_image_processor(448)([picture], return_tensors="pt")["pixel_values"]
    squashed = np.array(picture.resize((448, 448), Image.Resampling.BICUBIC), np.float32)
    expected = torch.from_numpy(squashed).permute(2, 0, 1)[None]
    assert ((made * std + mean) * 255 - expected).abs().max() < 2.01  # rounded in each direction
