"""What comes from a stranger, or damaged: told in one sentence, and none of it is run."""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoProcessor

from flmm import GroundingInferencer
from flmm.engine import load_config
from flmm.engine.exporting import export_checkpoint
from flmm.engine.shared_head import read_head
from flmm.engine.shared_settings import decode_settings, encode_settings
from flmm.heads import UNetHead
from flmm.registry import MODELS
from flmm.vlms.loading import TINY_FOLDER
from tests.engine.test_sharing import TINY, change


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_checkpoint(load_config(TINY), "tiny", tmp_path_factory.mktemp("safety") / "head")


@pytest.fixture
def own_head(head: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(head, tmp_path / "head"))


def edit_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["mask_head.extra"] = weights.pop("mask_head.conv_seg.bias")
    save_file(weights, folder / "model.safetensors")
    content = (folder / "model.safetensors").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    change(folder, lambda record: record["weights"].update(sha256=digest))


def test_missing_and_unexpected_weights_are_named(own_head):
    edit_weights(own_head)
    with pytest.raises(ValueError, match="does not fit the model") as caught:
        GroundingInferencer.from_pretrained(own_head, device="cpu")
    lines = str(caught.value).splitlines()[1:]
    assert lines == ["  missing: mask_head.conv_seg.bias [1]", "  unexpected: mask_head.extra"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


DAMAGES = {
    "cut json": (lambda folder: cut(folder / "config.json"), r"config\.json is cut off or damaged"),
    "cut weights": (lambda f: cut(f / "model.safetensors"), r"model\.safetensors is cut off, dam"),
    "no json": (lambda f: (f / "config.json").unlink(), r"holds no head: it has no config\.json"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "it has no model.safetensors"),
    "a list": (lambda f: (f / "config.json").write_text("[1]"), "not written by save_pretrained"),
    "deep": (lambda f: (f / "config.json").write_text("[" * 10**5), "cut off or damaged"),
    "binary": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "cut off or damaged"),
    "a reader": (
        lambda f: shutil.copy(TINY_FOLDER / "config.json", f),
        "is no flmm head's, it is that of a qwen2_5_vl model",
    ),
    "newer": (
        lambda f: change(f, lambda record: record.update(format_version=2)),
        "has format 2, .*update flmm",
    ),
    "no model": (
        lambda f: change(f, lambda record: record.pop("model")),
        "damaged: 'model' is missing",
    ),
    "no sizes": (
        lambda f: change(f, lambda record: record["reader"].pop("sizes")),
        "reader.sizes is None",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_files_are_told_in_one_sentence(own_head, damage, message):
    damage(own_head)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        GroundingInferencer.from_pretrained(own_head, device="cpu")
    assert "\n" not in str(caught.value) and str(own_head) in str(caught.value)


AUTO = "transformers.AutoProcessor.from_pretrained"
ATTACKS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "dotted type": (lambda m: m.update(type="flmm_attack.run"), "model.type is 'flmm_attack"),
    "type of a part": (lambda m: m["sam"].update(type="os.system"), "sam.type is 'os.system'"),
    "type deep inside": (
        lambda m: m["mask_head"].update(norm_cfg={"type": "builtins.exec"}),
        "norm_cfg.type is 'builtins.exec'",
    ),
    "scope": (lambda m: m["sam"].update(_scope_="flmm_attack"), "the setting '_scope_'"),
    "python name": (
        lambda m: m["model"].update(dtype={"__python__": "flmm_attack.run"}),
        "model.model.dtype names 'flmm_attack.run'",
    ),
    "python type": (
        lambda m: m["sam"].update(type={"__python__": "subprocess.Popen"}),
        "model.sam.type names 'subprocess.Popen'",
    ),
    "python name with more": (
        lambda m: m["model"].update(dtype={"__python__": "torch.bfloat16", "x": 1}),
        "model.model.dtype names",
    ),
    "remote code": (
        lambda m: m["mask_head"].update(
            norm_cfg={"type": {"__python__": AUTO}, "trust_remote_code": True}
        ),
        "the setting 'trust_remote_code'",
    ),
    "another's function as a part": (
        lambda m: m.update(mask_head={"type": {"__python__": AUTO}}),
        "model.mask_head.type is .*no registered part",
    ),
    "kernels of the hub": (
        lambda m: m["model"].update(attn_implementation="someone/kernels"),
        "attn_implementation is 'someone/kernels'",
    ),
    "no grounder": (lambda m: m.update(type="UNetHead"), "no registered|does not take"),
    "unknown setting": (lambda m: m["model"].update(hook=1), "'hook', which FrozenQwen"),
}  # fmt: skip


@pytest.fixture
def attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that leaves a file where it is imported."""
    mark = tmp_path / "attacked"
    (tmp_path / "flmm_attack.py").write_text(f"open({str(mark)!r}, 'w')\ndef run(**kw): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flmm_attack", raising=False)
    return mark


@pytest.mark.parametrize(("edit", "message"), ATTACKS.values(), ids=ATTACKS)
def test_a_json_runs_no_code(own_head, attack, edit, message):
    change(own_head, lambda record: edit(record["model"]))
    with pytest.raises(ValueError, match=message) as caught:
        GroundingInferencer.from_pretrained(own_head, device="cpu")
    assert str(own_head / "config.json") in str(caught.value)
    assert not attack.exists() and "flmm_attack" not in sys.modules


def test_mmengine_alone_would_run_it(attack):
    """Why the names are looked up before."""
    MODELS.get("flmm_attack.run")
    assert attack.exists()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda r: r["reader"].update(source="folder", name="../../etc"), "neither a hub id nor"),
        (lambda r: r["reader"].update(source="hub", name="a/b/c"), "neither a hub id nor"),
        (lambda r: r["refiner"].update(file="/etc/passwd"), "the refiner is"),
        (lambda r: r.update(selectors=["os.system"]), "selectors is"),
        (lambda r: r.update(selectors=[{"type": "x"}]), "selectors is"),
    ],
)
def test_a_json_leads_nowhere_else(own_head, edit, message):
    change(own_head, edit)
    with pytest.raises(ValueError, match=message):
        read_head(own_head)


def test_callables_are_names_of_a_table():
    settings = {
        "type": UNetHead,
        "in_channels": 4,
        "norm_cfg": {"type": nn.GroupNorm, "num_groups": 1},
        "strides": (1, 1, 1, 1),
    }
    encoded = json.loads(json.dumps(encode_settings(settings, "model.mask_head")))
    assert encoded["type"] == "UNetHead" and encoded["base_channels"] == 64
    assert encoded["norm_cfg"]["type"] == {"__python__": "torch.nn.GroupNorm"}
    decoded = decode_settings(encoded, "model.mask_head")
    assert decoded["norm_cfg"]["type"] is nn.GroupNorm
    built, wanted = MODELS.build(decoded), UNetHead(4)
    assert str(built) == str(wanted)

    processor = {
        "type": AutoProcessor.from_pretrained,
        "pretrained_model_name_or_path": "Qwen/Qwen2.5-VL-3B-Instruct",
        "dtype": torch.bfloat16,
    }
    with pytest.raises(ValueError, match="the setting 'dtype'"):
        encode_settings(processor, "image_processor")
    dtype = processor.pop("dtype")
    assert decode_settings(encode_settings(dtype, "dtype"), "dtype") is dtype
    encoded = encode_settings(processor, "image_processor")
    assert encoded["type"] == {"__python__": AUTO}
    assert decode_settings(encoded, "image_processor") == processor


@pytest.mark.parametrize("value", [os.system, nn.Linear(1, 1), UNetHead.forward, object()])
def test_what_no_json_can_name_is_refused(value):
    with pytest.raises(TypeError, match=r"model\.x\[0\] is .*, which cannot be written"):
        encode_settings({"x": [value]}, "model")
