"""Checkpoints of F-LMM's code, imitated: converted exactly, or refused in one sentence."""

import argparse
import os
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import HistoryBuffer
from torch import nn

from flmm import GroundingInferencer
from flmm.config import load_config
from flmm.masks import SAMRefiner
from flmm.sharing.exporting import convert_head, read_published
from tests.masks.reference_unet import ReferenceHead

ROOT = Path(__file__).parents[2]
SCENE = ROOT / "docs/images/scene.png"
SIZES: dict[str, Any] = dict(
    base_channels=8,
    strides=(1, 1, 1),
    enc_num_convs=(2, 2, 2),
    dec_num_convs=(2, 2),
    downsamples=(True, True),
    enc_dilations=(1, 1, 1),
    dec_dilations=(1, 1),
    upsample_input=32,
    normalize_input=True,
)
# As mmengine writes F-LMM's lazy configs into checkpoints.
SETTINGS = """lr = 0.0001
model = dict(
    mask_head=dict(type='flmm.models.mask_head.mask_decoder.UNetHead'),
    model=dict(
        pretrained_model_name_or_path='llava-hf/llava-1.5-7b-hf',
        torch_dtype='torch.bfloat16',
        type='llava.modeling_llava.CustomLlavaForConditionalGeneration.from_pretrained'),
    type='flmm.models.frozen_llava.FrozenLlavaSAM')
"""


@pytest.fixture(scope="module")
def config() -> Config:
    """The toy with a U-Net as F-LMM has it."""
    config = load_config("tiny")
    config.model.keyword_selector = None
    head = dict(type="UNetHead", num_stages=3, **SIZES)
    config.model.mask_head = ConfigDict(head)
    return config


class FLMM(nn.Module):
    """The trained parts under F-LMM's names, of modules that are not flmm's own."""

    def __init__(self, num_maps: int = 30, layers: int = 5, width: int = 192) -> None:
        super().__init__()
        self.llava = nn.Linear(3, 3).requires_grad_(False)
        self.mask_head = ReferenceHead(num_maps, **SIZES)
        self.sam = nn.Module()
        self.sam.model = SAMRefiner("tiny").sam.requires_grad_(True)
        self.sam.model.image_encoder.requires_grad_(False)
        self.text_proj = nn.Linear(width, 64)
        self.text_layer_weights = nn.Parameter(torch.rand(layers))
        with torch.no_grad():
            self.sam.model.mask_decoder.iou_token.weight += 0.1

    def save(self, path: Path, **meta: Any) -> Path:
        """As F-LMM's runner does: parameters that have a gradient, and what mmengine adds."""
        trained = {name: p.detach() for name, p in self.named_parameters() if p.requires_grad}
        meta = {
            "cfg": SETTINGS,
            "args": argparse.Namespace(config="a.py", deepspeed="deepspeed_zero2"),
            "more": ConfigDict(a=1, b=dict(c=2)),
            **meta,
        }
        log = {"log_scalars": {"train/loss": HistoryBuffer([1.0], [1])}, "resumed_keys": {}}
        content = {"meta": meta, "state_dict": trained, "message_hub": log}
        torch.save(content | {"optimizer": {"state": {}}, "param_schedulers": []}, path)
        return path


@pytest.fixture(scope="module")
def published() -> FLMM:
    torch.manual_seed(5)
    return FLMM().eval()


def test_a_converted_head_gives_f_lmms_coarse_masks(config, published, tmp_path):
    path = published.save(tmp_path / "f_lmm.pth")
    assert "argparse.Namespace" in torch.serialization.get_unsafe_globals_in_checkpoint(path)
    head = convert_head(config, path, tmp_path / "head.safetensors")
    assert head.left_out == 0 and head.sizes == (30, 5, 192)
    grounder = GroundingInferencer(config, tmp_path / "head.safetensors", device="cpu")
    result = grounder(SCENE, ["the red triangle", "a blue square"], return_maps=True)
    with torch.no_grad():
        wanted = published.mask_head(torch.from_numpy(result.attention_maps))[:, 0]
    assert wanted.std() > 0.01
    torch.testing.assert_close(torch.from_numpy(result.coarse_mask_logits), wanted)
    model = grounder.model
    assert torch.equal(model.text_proj.weight, published.text_proj.weight)
    assert torch.equal(model.text_layer_weights, published.text_layer_weights)
    own, theirs = model.sam.sam.state_dict(), published.sam.model.state_dict()
    assert all(torch.equal(own[key], theirs[key]) for key in theirs)


def test_a_bare_state_dict_with_frozen_weights_is_read(config, published, tmp_path):
    """What F-LMM's deepspeed2torch script writes."""
    weights = {f"module.{key}": value for key, value in published.state_dict().items()}
    torch.save(weights, tmp_path / "bare.pth")
    head = convert_head(config, tmp_path / "bare.pth", tmp_path / "head.pth")
    assert head.left_out >= 2 and (tmp_path / "head.pth").is_file()
    assert not any("llava" in key or "image_encoder" in key for key in head.weights)


def test_a_head_of_another_reader_is_refused(config, tmp_path):
    flmm = FLMM(num_maps=1024, layers=32, width=4096)
    named = flmm.save(tmp_path / "named.pth")
    torch.save(flmm.state_dict(), tmp_path / "bare.pth")
    sizes = r"\(1024 attention maps, 32 layers, 4096 width\), and tiny has 30 attention maps, 5"
    for path, name in [
        (named, "'llava-hf/llava-1.5-7b-hf'"),
        (tmp_path / "bare.pth", "a model"),
    ]:
        with pytest.raises(ValueError, match=f"was made for {name} {sizes}.* train one") as caught:
            convert_head(config, path, tmp_path / "out.pth")
        assert "\n" not in str(caught.value) and not (tmp_path / "out.pth").exists()


def test_other_settings_of_the_head_are_named(config, published, tmp_path):
    other = config.copy()
    other.model = ConfigDict(config.model | {"mask_head": config.model.mask_head | {}})
    other.model.mask_head.base_channels = 16
    path = published.save(tmp_path / "f_lmm.pth")
    with pytest.raises(ValueError, match=r"does not fit the model:\n  wrong shape: mask_head\.enc"):
        convert_head(other, path, tmp_path / "out.pth")
    path = published.save(
        tmp_path / "max.pth", cfg=SETTINGS.replace("    model=", "    merge='max', model=")
    )
    with pytest.raises(ValueError, match=r"with merge='max': .*model\.model\.token_merge='max'"):
        convert_head(config, path, tmp_path / "out.pth")


class Attack:
    def __init__(self, function: Any, text: str) -> None:
        self.call = function, (text,)

    def __reduce__(self) -> Any:
        return self.call


def test_what_is_pickled_in_it_is_not_run(published, tmp_path):
    mark = tmp_path / "attacked"
    for function, text in ((os.system, f"touch {mark}"), (exec, f"open({str(mark)!r}, 'w')")):
        path = published.save(tmp_path / "evil.pth", evil=Attack(function, text))
        try:
            assert read_published(path).sizes == (30, 5, 192)
        except ValueError as error:
            assert "cannot be read without running what it holds" in str(error)
        assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no checkpoint", "cannot be read without running"),
        ({"state_dict": {"a": 1}}, "holds no mask head of F-LMM's"),
        ([1], "holds no mask head of F-LMM's"),
    ],
)
def test_what_is_no_checkpoint_of_f_lmm(tmp_path, content, message):
    path = tmp_path / "x.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        read_published(path)
    with pytest.raises(FileNotFoundError, match=r"absent\.pth does not exist"):
        read_published(tmp_path / "absent.pth")


def test_the_tool(config, published, tmp_path, monkeypatch, capsys):
    config.dump(tmp_path / "toy.py")
    path, out = published.save(tmp_path / "f_lmm.pth"), tmp_path / "head.safetensors"
    monkeypatch.setattr(
        "sys.argv", ["x", str(path), str(out), "--config", str(tmp_path / "toy.py")]
    )
    runpy.run_path(str(ROOT / "tools/convert_flmm.py"), run_name="__main__")
    assert f"written: {out}" in capsys.readouterr().out and out.is_file()
