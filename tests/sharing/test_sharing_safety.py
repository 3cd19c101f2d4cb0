"""What comes from a stranger, or damaged: told in one sentence, and none of it is run."""

import ast
import hashlib
import json
import os
import re
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

import flmm
from flmm import GroundingInferencer
from flmm.config import load_config
from flmm.masks import UNetHead
from flmm.readers.loading import TINY_FOLDER
from flmm.registry import MODELS
from flmm.sharing.exporting import export_checkpoint
from flmm.sharing.head_files import read_head
from flmm.sharing.settings import decode_settings, encode_settings
from flmm.sharing.sharing import load_pretrained
from tests.sharing.test_sharing import TINY, change


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
        "norm_cfg.type names 'transformers.AutoProcessor",
    ),
    "another's function as a part": (
        lambda m: m.update(mask_head={"type": {"__python__": AUTO}}),
        "model.mask_head.type names 'transformers.AutoProcessor",
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


PATHS = [
    "/etc",
    "../evil",
    "./evil",
    "~/evil",
    "~root",
    "C:/evil",
    "C:evil",
    r"\\host\share",
    "file:///etc",
    "http://host/evil",
    "evil",
    "a/b/c",
    "a/b\0",
    "",
    ["a/b"],
    {"a": "b"},
    7,
]
# Key -> how a stranger writes a path there.
PLACES: dict[str, Callable[[dict[str, Any], Any], object]] = {
    "model.model.processor": lambda r, path: r["model"]["model"].update(processor=path),
    "model.model.name_or_path": lambda r, path: r["model"]["model"].update(name_or_path=path),
    "model.sam.checkpoint": lambda r, path: r["model"]["sam"].update(checkpoint=path),
    "model.sam.model_name": lambda r, path: r["model"]["sam"].update(model_name=path),
    "model.mask_head.norm_cfg.path": lambda r, path: r["model"]["mask_head"]["norm_cfg"].update(
        path=path
    ),
    "reader.revision": lambda r, path: r["reader"].update(revision=path),
    "reader.config_hash": lambda r, path: r["reader"].update(config_hash=path),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_json_names_no_path(own_head, place):
    text = (own_head / "config.json").read_text()
    harmless = {"model.sam.model_name", "model.mask_head.norm_cfg.path"}  # looked up in a table
    for path in PATHS if place not in harmless else PATHS[:8]:
        record = json.loads(text)
        PLACES[place](record, path)
        (own_head / "config.json").write_text(json.dumps(record))
        with pytest.raises(
            ValueError, match=r"config\.json: .*" + place.replace(".", r"\.")
        ) as caught:
            read_head(own_head)
        assert "\n" not in str(caught.value), path


def test_what_a_processor_may_be(own_head, small_processor, monkeypatch):
    """A hub id, or 'tiny', is a stranger's to say; a folder is the user's own."""
    for name in ("tiny", "Qwen/Qwen2.5-VL-3B-Instruct", None):
        change(own_head, lambda record, name=name: record["model"]["model"].update(processor=name))
        assert load_pretrained(own_head).model.model.processor == name
    options = {"model.model.processor": str(small_processor)}
    assert load_pretrained(own_head, cfg_options=options).model.model.processor == str(
        small_processor
    )


@pytest.fixture
def small_processor(tmp_path: Path, attack: Path) -> Path:
    """A processor that wants code of its own to run."""
    folder = Path(shutil.copytree(TINY_FOLDER, tmp_path / "processor"))
    shutil.copy(tmp_path / "flmm_attack.py", folder / "processing_evil.py")
    auto_map = {"AutoProcessor": "processing_evil.run", "AutoConfig": "processing_evil.run"}
    for name in ("processor_config.json", "config.json"):
        content = json.loads((folder / name).read_text())
        content |= {"auto_map": auto_map, "model_type": "evil", "processor_class": "Evil"}
        (folder / name).write_text(json.dumps(content))
    return folder


def test_nobody_is_asked_whether_to_run_code(head, small_processor, attack, monkeypatch):
    """Also of a folder that the user names: transformers would ask, and `y` would run it."""
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("it asks"))
    for key in ("model.model.processor", "reader"):
        with pytest.raises(
            OSError, match="needs code of its own, which flmm does not run"
        ) as caught:
            options = {key: str(small_processor)}
            GroundingInferencer.from_pretrained(head, device="cpu", cfg_options=options)
        assert "\n" not in str(caught.value)
    assert not attack.exists()


def test_every_loader_refuses_code():
    """Every ``from_pretrained`` and ``from_config`` of transformers, in flmm and in tools."""
    root = Path(flmm.__file__).parents[1]
    calls = []
    for path in [*root.glob("flmm/**/*.py"), *root.glob("tools/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner = ast.unparse(node.func.value)
            if node.func.attr in ("from_pretrained", "from_config") and owner != "MODELS":
                said = {item.arg: ast.unparse(item.value) for item in node.keywords}
                calls.append((f"{path.name}:{node.lineno}", said.get("trust_remote_code")))
    assert len(calls) >= 6
    assert {call: said for call, said in calls if said != "False"} == {}
    text = "".join(path.read_text(encoding="utf-8") for path in root.glob("flmm/**/*.py"))
    assert not re.search(r"trust_remote_code\W+True|weights_only=False", text)


STRANGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "key twice": (
        lambda f: edit_text(f, '"format": "flmm"', '"format": "flmm", "format": "flmm"'),
        "the key 'format' stands there twice",
    ),
    "NaN": (
        lambda f: edit_text(f, '"threshold": 0.5', '"threshold": NaN'),
        "NaN is no number of JSON",
    ),
    "no revision": (
        lambda f: change(f, lambda record: record["reader"].pop("revision")),
        r"reader\.revision is missing",
    ),
    "huge": (lambda f: (f / "config.json").write_text(" " * 2**21), "more than 1,048,576 bytes"),
    "wide head": (
        lambda f: change(f, lambda r: r["model"]["mask_head"].update(base_channels=10**6)),
        r"mask_head would have [\d,]+ values, its file has",
    ),
    "endless head": (
        lambda f: change(f, lambda r: r["model"]["mask_head"].update(enc_num_convs=[10**9] * 3)),
        r"enc_num_convs holds 1000000000, not in 0\.\.64",
    ),
    "many stages": (
        lambda f: change(f, lambda r: r["model"]["mask_head"].update(num_stages=10**9)),
        "mask_head cannot be built",
    ),
    "huge maps": (
        lambda f: change(f, lambda r: r["model"]["mask_head"].update(upsample_input=10**7)),
        r"upsample_input is 10000000, not in",
    ),
    "huge pictures": (
        lambda f: change(f, lambda r: r["model"]["model"].update(min_pixels=10**15)),
        "min_pixels is 1000000000000000, not in",
    ),
    "a text for a number": (
        lambda f: change(f, lambda r: r["model"]["mask_head"].update(base_channels="32")),
        "base_channels is '32', which is no int",
    ),
    "a number for a text": (
        lambda f: change(f, lambda r: r["model"]["model"].update(prompt=7)),
        "model.model.prompt is 7, which is no str",
    ),
    "true layers": (
        lambda f: change(f, lambda r: r["reader"]["sizes"].update(num_layers=True)),
        "reader.sizes is",
    ),
    "a reader as the head": (
        lambda f: change(f, lambda r: r["model"].update(mask_head={"type": "FrozenQwen"})),
        "mask_head.type is 'FrozenQwen', which is no registered part of this kind",
    ),
    "a reader as the refiner": (
        lambda f: change(f, lambda r: r["model"].update(sam={"type": "FrozenQwen"})),
        "model.sam.type is 'FrozenQwen'",
    ),
    "a preprocessor": (
        lambda f: change(f, lambda r: r["model"].update(data_preprocessor={"type": "UNetHead"})),
        "model.data_preprocessor is .* none of it",
    ),
    "random SAM": (
        lambda f: change(f, lambda r: r["model"]["sam"].update(model_name="vit_b")),
        "model.sam.model_name is 'vit_b', and only 'tiny' is embedded",
    ),
    "no refiner": (
        lambda f: change(f, lambda r: r.update(refiner=None)),
        "of 'refiner' and 'model.sam' one is missing",
    ),
    "spread": (
        lambda f: change(f, lambda r: r["model"]["model"].update(device_map="auto")),
        "model.model.device_map is the affair",
    ),
    "terminal's orders": (
        lambda f: change(f, lambda r: r.update(format_version="\x1b[2J\n")),
        r"has format '\\x1b\[2J\\n', written by",
    ),
    "link out of the folder": (lambda f: link(f / "config.json"), "is a link that leads out"),
    "linked weights": (lambda f: link(f / "model.safetensors"), "is a link that leads out"),
}  # fmt: skip


def edit_text(folder: Path, old: str, new: str) -> None:
    text = (folder / "config.json").read_text().replace(old, new, 1)
    assert new in text
    (folder / "config.json").write_text(text)


def link(path: Path) -> None:
    target = path.rename(path.parents[1] / f"elsewhere_{path.name}")
    path.symlink_to(target)


@pytest.mark.parametrize(("edit", "message"), STRANGE.values(), ids=STRANGE)
def test_strange_values_are_told_in_one_sentence(own_head, edit, message):
    edit(own_head)
    with pytest.raises(ValueError, match=message) as caught:
        read_head(own_head)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "header", [b"\xff" * 8, b"\x00" * 8, (2**40).to_bytes(8, "little") + b"{}"]
)
def test_hostile_headers_of_weights(own_head, header):
    content = header + (own_head / "model.safetensors").read_bytes()[8:]
    (own_head / "model.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    change(own_head, lambda record: record["weights"].update(sha256=digest))
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read"):
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

    dtype = torch.bfloat16
    assert decode_settings(encode_settings(dtype, "dtype"), "dtype") is dtype
    with pytest.raises(TypeError, match=r"type is transformers.*AutoProcessor.from_pretrained, wh"):
        encode_settings({"type": AutoProcessor.from_pretrained}, "image_processor")
    with pytest.raises(ValueError, match="x is nan, which no JSON has"):
        encode_settings({"x": float("nan")}, "model")


@pytest.mark.parametrize("value", [os.system, nn.Linear(1, 1), UNetHead.forward, object()])
def test_what_no_json_can_name_is_refused(value):
    with pytest.raises(TypeError, match=r"model\.x\[0\] is .*, which cannot be written"):
        encode_settings({"x": [value]}, "model")
