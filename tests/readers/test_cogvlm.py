"""CogVLM's own decoder against what the original code gave, and against the published key list."""

import copy
import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText
from transformers.core_model_loading import rename_source_key

from flmm.readers import FrozenVLM
from flmm.readers.families import find_family
from flmm.readers.loading import load_config, load_processor
from flmm.readers.own_models.cogvlm import (
    COGVLM,
    CogVLMForConditionalGeneration,
    locate_tokens,
    read_config,
)
from flmm.readers.own_models.cogvlm_processor import build_template
from flmm.readers.prompts import ContextFullError
from tests.small_models import build_small_model
from tests.small_models import load_processor as load_small_processor

# As THUDM/cogvlm2-llama3-chat-19B has them.
COGVLM2 = {
    "architectures": ["CogVLMForCausalLM"],
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_multi_query_heads": 8,
    "vision_config": {
        "hidden_size": 1792,
        "intermediate_size": 15360,
        "num_hidden_layers": 63,
        "num_heads": 16,
        "image_size": 1344,
        "patch_size": 14,
    },
}


@pytest.fixture(scope="module")
def published(data_dir, tmp_path_factory):
    """A folder as a published one is, with the oracle's weights."""
    files, folder = data_dir / "oracles", tmp_path_factory.mktemp("cogvlm2")
    told = json.loads((files / "cogvlm2_config.json").read_text())
    sizes = {"rms_norm_eps": 1e-5, "architectures": COGVLM2["architectures"]}
    values = {**told["text"], **sizes, "vision_config": told["vision"]}
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "model.safetensors").symlink_to(files / "cogvlm2_tiny.safetensors")
    return folder


@pytest.fixture(scope="module")
def oracle(data_dir, published):
    """The model of that folder, and what the original code gave for its weights."""
    config = load_config(published)
    config.image_token_id = 500  # the oracle's vocabulary is small
    model, report = AutoModelForImageTextToText.from_pretrained(
        published, config=config, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    return model.eval(), load_file(data_dir / "oracles/cogvlm2_expected.safetensors")


@torch.no_grad()
def test_hidden_states_equal_those_of_the_original_code(oracle):
    model, expected = oracle
    wanted = expected["last_hidden_state"]
    got = model.model(expected["input_ids"], expected["pixel_values"]).last_hidden_state
    assert got.shape == wanted.shape and (got - wanted).norm() < 1e-5 * wanted.norm()


def test_weights_are_saved_under_their_published_names(oracle, published, tmp_path):
    oracle[0].save_pretrained(tmp_path)
    with (
        safe_open(tmp_path / "model.safetensors", "pt") as saved,
        safe_open(published / "model.safetensors", "pt") as given,
    ):
        assert set(saved.keys()) == set(given.keys())
        for key in given.keys():  # noqa: SIM118
            assert saved.get_tensor(key).equal(given.get_tensor(key))
    assert isinstance(load_config(tmp_path), COGVLM.config_class)


@torch.no_grad()
def test_text_alone_runs_no_vision_expert(oracle):
    model, expected = oracle
    ran = []
    for name, module in model.get_decoder().named_modules():
        if "vision" in name:
            module.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
    model.model(expected["input_ids"][:, -5:])
    assert not ran
    model.model(expected["input_ids"], expected["pixel_values"])
    layers = len(model.get_decoder().layers)
    assert len(ran) == 7 * layers  # two projections, an MLP and its four parts


def test_the_published_keys_are_those_of_the_model_in_full_size(data_dir):
    index = json.loads((data_dir / "processors/cogvlm2/weight_keys.index.json").read_text())
    published = {key for key in index["weight_map"] if "rotary_emb.inv_freq" not in key}
    with torch.device("meta"):
        model = CogVLMForConditionalGeneration(read_config(COGVLM2))
    own = {rename_source_key(key, COGVLM.weights, [])[0] for key in published}
    assert own == set(model.state_dict())
    angles = 64 * (len(index["weight_map"]) - len(published))  # which the files hold besides
    values = index["metadata"]["total_size"] // 2  # of bfloat16
    assert sum(item.numel() for item in model.parameters()) == values - angles == 19_503_105_280


def test_the_cells_of_a_picture_share_one_position():
    is_image = torch.tensor([[0, 1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0, 0]], dtype=torch.bool)
    assert locate_tokens(is_image).tolist() == [[0, 1, 2, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5, 6]]


@pytest.fixture
def build(data_dir):
    """A reader of the first generation's classes and tokenizer, with another template."""

    def build_reader(version):
        model = build_small_model(data_dir, "cogvlm")
        model.config.template_version = version
        processor = copy.copy(load_small_processor(data_dir, "cogvlm"))
        processor.chat_template = build_template(version, "<unk>", is_sentencepiece=True)
        return FrozenVLM.from_model(model, processor)

    return build_reader


@pytest.mark.parametrize(
    ("version", "text"),
    [
        ("chat", "Question: Where is it? Answer:"),
        ("vqa", "Question: Where is it? Short answer:"),
        ("base", "Where is it?"),
    ],
)
def test_token_ids_are_those_of_the_original_code(build, noise, version, text):
    """The beginning, 18 times the padding, then the text, tokenised on its own."""
    vlm = build(version)
    own = vlm.prefill(noise(40, 60), "Where is it?").input_ids.tolist()
    assert own == [1, *[0] * 18, *vlm.tokenizer.encode(text, add_special_tokens=False)]


def test_a_conversation_is_written_as_by_the_original_code(build, noise):
    vlm = build("chat")
    dialogue = vlm.converse(noise(40, 60))
    dialogue.ask("What is it?")
    dialogue.begin("A red cup.")
    dialogue.ask("Where?")
    text = "Question: What is it? Answer: A red cup.\nQuestion: Where? Answer:"
    assert dialogue.input_ids[19:] == vlm.tokenizer.encode(text, add_special_tokens=False)
    with pytest.raises(ValueError, match="'cogvlm' model reads 1 picture in a conversation"):
        dialogue.ask("And here?", [vlm.image_processor.encode(noise(30, 30))])


def test_the_models_for_grounding_name_boxes_and_hold_no_conversation(build, noise):
    vlm = build("base")
    question = vlm.family.box_format.ask("a red cup")
    assert question == "Where is a red cup? answer in [[x0,y0,x1,y1]] format."
    with pytest.raises(ValueError, match="'cogvlm' model holds no conversation"):
        vlm.converse(noise(40, 60))
    with pytest.raises(ValueError, match="how a 'cogvlm' model names boxes is not known"):
        _ = build("chat").family.box_format


def test_what_does_not_fit_into_the_context_is_refused(build, noise):
    vlm = build("chat")
    with pytest.raises(ContextFullError, match="the picture holds 18, and the model reads"):
        vlm.prefill(noise(40, 60), "why " * vlm.max_tokens)


def write_folder(folder, **changes):
    """A config as the first generation's are published."""
    values = {**COGVLM2, **changes}
    del values["num_multi_query_heads"]
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def test_what_is_not_read_exactly_is_refused(data_dir, tmp_path):
    config, processor = (
        build_small_model(data_dir, "cogvlm").config,
        copy.copy(load_small_processor(data_dir, "cogvlm")),
    )
    processor.image_seq_length = 11
    with pytest.raises(ValueError, match="makes 18 tokens of 56 px, the processor 11 of 56 px"):
        find_family(config)(config, processor)
    processor.image_seq_length = 18
    processor.tokenizer = copy.deepcopy(processor.tokenizer)
    processor.tokenizer.pad_token = "<unk>"
    with pytest.raises(ValueError, match="pads with '<unk>', which stands for a part of a picture"):
        find_family(config)(config, processor)
    folder = write_folder(tmp_path, quantization_config={"load_in_4bit": True})
    with pytest.raises(ValueError, match="this CogVLM is quantised to few bits"):
        find_family(load_config(folder))(load_config(folder), processor)


def test_a_folder_without_a_tokenizer_or_of_another_model_is_refused(data_dir, tmp_path):
    with pytest.raises(OSError, match="no processor can be loaded") as caught:
        load_processor(write_folder(tmp_path))
    assert "takes that of lmsys/vicuna-7b-v1.5" in str(caught.value.__cause__)
    shutil.copy(data_dir / "processors/llava/tokenizer.json", tmp_path)
    write_folder(tmp_path, template_version="other")
    with pytest.raises(OSError, match="no processor can be loaded") as caught:
        load_processor(tmp_path)
    assert "'other' is not known: give one of 'chat', 'vqa', 'base'" in str(caught.value.__cause__)
    name = "modeling_cogvlm.CogVLMVideoForCausalLM"
    code = {"AutoConfig": "configuration_cogvlm.CogVLMConfig", "AutoModelForCausalLM": name}
    write_folder(tmp_path, architectures=["CogVLMVideoForCausalLM"], auto_map=code)
    with pytest.raises(OSError, match="needs code of its own, which flmm does not run"):
        load_config(tmp_path)
