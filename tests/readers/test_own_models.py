"""Models of our own against what the published code gave, and their published key names."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoTokenizer

from flmm.readers import FrozenVLM
from flmm.readers.families import find_family
from flmm.readers.loading import load_config, load_model, load_processor
from flmm.readers.own_models import OWN_MODELS
from tests.readers.test_reader_contract import relative_difference
from tests.small_models import build_small_model, save_small_folder
from tests.small_models import load_processor as load_small_processor


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


def test_a_saved_folder_is_read_again(data_dir, tmp_path, noise):
    folder = save_small_folder(data_dir, "qwen_vl", tmp_path)
    names = set(load_file(folder / "model.safetensors"))
    assert "transformer.h.0.attn.c_attn.weight" in names and "lm_head.weight" in names
    again = FrozenVLM(folder, dtype="float32")
    first = FrozenVLM.from_model(
        build_small_model(data_dir, "qwen_vl"), load_small_processor(data_dir, "qwen_vl")
    )
    seen = [vlm.attend(vlm.prefill(noise(50, 80)), ["a cup"]).maps for vlm in (first, again)]
    assert torch.equal(*seen)
    assert again.render_prompt("Hi") == first.render_prompt("Hi")
    assert again.processor.image_seq_length == 16 and again.tokenizer.eos_token == "<|im_end|>"


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


def test_the_model_that_was_not_tuned_to_chat_goes_on_with_the_text(data_dir, tmp_path):
    folder = data_dir / "processors" / "qwen_vl_v1"
    for name in ("config.json", "qwen.tiktoken"):
        shutil.copy(folder / name, tmp_path)
    (tmp_path / "generation_config.json").write_text('{"chat_format": "raw"}')
    processor = load_processor(tmp_path)
    content = [{"type": "image"}, {"type": "text", "text": "Describe it:"}]
    messages = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == "Picture 1: <img><imgpad></img>\nDescribe it:"
    assert processor.tokenizer.eos_token == "<|endoftext|>"


def test_what_is_not_converted_is_refused(data_dir, tmp_path):
    folder = data_dir / "processors" / "qwen_vl_v1"
    config = load_config(folder)
    processor = load_processor(folder)
    with pytest.raises(ValueError, match=r"quantised to few bits.*give Qwen/Qwen-VL-Chat"):
        find_family(config)(config, processor)
    del config.quantization_config
    processor.image_seq_length = 4
    with pytest.raises(ValueError, match="makes 256 tokens of a picture, the processor writes 4"):
        find_family(config)(config, processor)
    values = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(OSError, match="no processor can be loaded") as caught:
        load_processor(tmp_path)
    assert "no qwen.tiktoken beside the config" in str(caught.value.__cause__)
    del values["visual"]  # a text model
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(OSError, match="needs code of its own, which flmm does not run"):
        load_config(tmp_path)


def test_random_weights_are_wide_awake():
    """Without real weights a dry run still sees something."""
    (own,) = [own for own in OWN_MODELS if own.config_class.model_type == "qwen_vl"]
    text = {"hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 64}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 2}
    vision = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 56, "output_dim": 128, "num_queries": 16}
    model = AutoModelForImageTextToText.from_config(
        own.config_class(text_config=text, vision_config=vision)
    )
    random = [weight for weight in model.parameters() if weight.ndim > 1]
    assert all(weight.std() > 0 for weight in random)
