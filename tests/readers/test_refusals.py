"""What no reader can do is told in one sentence, whichever the family: never a wrong map.

Further pictures, and turns of models that hold no conversation, are in test_family_contract.
"""

import pytest
import torch

from flmm.readers.families import find_family
from flmm.readers.prompts import ContextFullError
from tests.small_models import build_small_config, load_processor

QUESTION = "What is left of the lamp?"


def tell(call, *args, error=ValueError):
    """The one sentence with which a call is refused."""
    with pytest.raises(error) as refused:
        call(*args)
    assert len(str(refused.value).splitlines()) == 1
    return str(refused.value)


def test_a_longer_context(vlm, noise, monkeypatch):
    prefix = vlm.prefill(noise(40, 60))
    limit = prefix.image_columns.stop + 2
    monkeypatch.setattr(vlm.text_config, "max_position_embeddings", limit)
    for call in (vlm.attend, vlm.answer):
        told = tell(call, prefix, [QUESTION], error=ContextFullError)
        assert f"the model reads {limit} (max_position_embeddings): shorten the" in told
    monkeypatch.setattr(vlm.text_config, "max_position_embeddings", len(prefix) - 1)
    assert "max_pixels" in tell(vlm.prefill, noise(40, 60), error=ContextFullError)


@torch.no_grad()
def test_an_unknown_keyword_of_a_layers_attention(vlm, noise, monkeypatch):
    """As a kernel of next year's may take: left alone, it would change scores in silence."""
    prefix = vlm.prefill(noise(40, 60))
    decoder = vlm.model.get_decoder()
    run = decoder.forward

    def hand_on(*args, **inputs):
        return run(*args, **inputs, s_aux=torch.zeros(4))

    monkeypatch.setattr(decoder, "forward", hand_on)
    assert "s_aux, which flmm does not apply" in tell(vlm.attend, prefix, [QUESTION])


def test_a_window_of_layers_that_nobody_names(data_dir, family):
    config = build_small_config(data_dir, family)
    text = config.get_text_config()
    text.sliding_window, text.use_sliding_window, text.layer_types = 12, True, None
    told = tell(find_family(config), config, load_processor(data_dir, family))
    assert "a sliding window of 12 tokens, but its config does not say in which layers" in told


def test_a_processor_of_another_model(data_dir, family):
    config = build_small_config(data_dir, family)
    config.image_token_id += 1
    told = tell(find_family(config), config, load_processor(data_dir, family))
    assert "image token id" in told and told.endswith("load both from the same folder")


def test_a_video(vlm, tmp_path):
    path = tmp_path / "walk.mp4"
    path.write_bytes(b"\0\0\0 ftypisom")
    assert "is a video, and flmm reads still pictures" in tell(vlm.prefill, path)
