"""A shared head comes back exactly, from folders and the hub, or says what does not fit."""

import copy
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from mmengine.config import Config
from safetensors.torch import load_file, save_file

from flmm import GroundingInferencer
from flmm.config import load_config
from flmm.fingerprints import sample_files_hash
from flmm.masks.refiners.segment_anything import TINY_WEIGHTS
from flmm.readers.loading import TINY_FOLDER
from flmm.registry import MODELS
from flmm.sharing.exporting import build_without_reader_weights
from flmm.sharing.head_files import find_head
from flmm.sharing.sharing import load_pretrained, save_pretrained
from tests.forks import run_fork
from tests.hub_stand_in import compute_commit, serve_hub
from tests.small_models import save_small_folder

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
TINY = ROOT / "configs/tiny/tiny_unet_sam_shapes.py"
SCENE = ROOT / "docs/images/scene.png"
PHRASES = ["the red triangle", "the small blue square"]
# What another process is told: calls of flmm, whose masks it writes.
PROCESS = f"""
import json, sys, warnings
import numpy as np
from huggingface_hub import constants
from flmm import GroundingInferencer
jobs, folder, constants.ENDPOINT = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
constants.HUGGINGFACE_CO_URL_TEMPLATE = (
    constants.ENDPOINT + "/{{repo_id}}/resolve/{{revision}}/{{filename}}"
)
constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE = folder + "/hub", False
masks = {{}}
for name, (door, arguments, saved) in jobs.items():
    if door == "offline":
        constants.HF_HUB_OFFLINE = True
        continue
    make = GroundingInferencer.from_pretrained if door == "load" else GroundingInferencer
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        inferencer = make(device="cpu", **arguments)
    masks[name] = inferencer({str(SCENE)!r}, {PHRASES!r}).masks
    if saved:
        inferencer.save_pretrained(saved)
np.savez(folder + "/masks.npz", **masks)
"""


def run_process(folder: Path, endpoint: str, jobs: dict[str, tuple]) -> dict[str, np.ndarray]:
    """Masks of each job, from a process that has never heard of this one."""
    folder.mkdir()
    done = run_fork(PROCESS, json.dumps(jobs), folder, endpoint)
    assert done.returncode == 0, done.stderr
    return dict(np.load(folder / "masks.npz"))


@pytest.fixture(scope="module")
def inferencer() -> GroundingInferencer:
    """The toy, with a head of its own: another than the embedded one."""
    inferencer = GroundingInferencer(TINY, device="cpu")
    with torch.no_grad():
        inferencer.model.mask_head.conv_seg.bias += 0.3
    return inferencer


@pytest.fixture(scope="module")
def masks(inferencer: GroundingInferencer) -> np.ndarray:
    masks = inferencer(SCENE, PHRASES).masks
    assert masks.any()
    return masks


@pytest.fixture(scope="module")
def head(inferencer: GroundingInferencer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharing") / "head"
    inferencer.save_pretrained(folder)
    return folder


@pytest.fixture
def own_head(head: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(head, tmp_path / "head"))


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite a head's config.json."""
    record = json.loads((folder / "config.json").read_text())
    edit(record)
    (folder / "config.json").write_text(json.dumps(record))


@dataclass
class Fresh:
    """What another process made of heads that were shared here.

    Attributes:
        masks: by job.
        behind_hub: masks behind the hub's reader, made here.
        commits: of that reader: when the head was shared, and what its branch moved on to.
        folders: heads that were shared behind that reader: here, the same again, behind the other.
    """

    masks: dict[str, np.ndarray]
    behind_hub: np.ndarray
    commits: tuple[str, str]
    folders: tuple[Path, Path, Path]


@pytest.fixture(scope="module")
def fresh(head, tmp_path_factory, request) -> Fresh:
    """Heads from folders, from the hub at a revision, and behind a reader whose branch moved on."""
    folder = tmp_path_factory.mktemp("fresh")
    other = Path(shutil.copytree(head, folder / "other"))
    change(other, lambda record: record["model"]["model"].update(prompt="Another prompt."))
    commit = compute_commit(TINY_FOLDER)
    cached = folder / f"models--someone--reader/snapshots/{commit}"  # as the hub's cache has it
    shutil.copytree(TINY_FOLDER, cached)
    moved = Path(shutil.copytree(TINY_FOLDER, folder / "moved"))
    scramble(moved)
    folders = folder / "shared", folder / "again", folder / "behind_the_other"
    here = GroundingInferencer(TINY, device="cpu", cfg_options={"reader": str(cached)})
    here.save_pretrained(folders[0])

    at_v1 = {"folder_or_hub_id": "someone/head", "revision": "v1"}
    by_branch = {"config": str(TINY), "cfg_options": {"reader": "someone/reader"}}
    jobs: dict[str, tuple] = {
        "folder": ("load", {"folder_or_hub_id": str(head)}, None),
        "door": ("build", {"config": str(head)}, None),
        "hub": ("load", at_v1, None),
        "hub reader": ("load", {"folder_or_hub_id": str(folders[0])}, str(folders[1])),
        "hub reader's branch": ("build", by_branch, str(folders[2])),
    }
    if "FLMM_TEST_DATA" in os.environ:
        small, its_reader, _ = request.getfixturevalue("small_head")
        arguments = {"folder_or_hub_id": str(small), "cfg_options": {"reader": str(its_reader)}}
        jobs["small"] = ("load", arguments, None)
    jobs |= {"offline": ("offline", {}, None), "hub offline": ("load", at_v1, None)}
    repositories = {
        "someone/head": {"main": other, "v1": head},
        "someone/reader": {"main": moved, "before": cached},
    }
    with serve_hub(repositories) as endpoint:
        masks = run_process(folder / "home", endpoint, jobs)
    commits = commit, compute_commit(moved)
    return Fresh(masks, here(SCENE, PHRASES).masks, commits, folders)


@pytest.mark.parametrize("name", ["folder", "door", "hub", "hub offline"])
def test_a_fresh_process_gives_identical_masks(fresh, masks, name):
    assert np.array_equal(fresh.masks[name], masks)


def test_a_hub_reader_is_read_at_its_revision(fresh):
    for folder, commit in zip(fresh.folders[::2], fresh.commits):
        record = json.loads((folder / "config.json").read_text())["reader"]
        assert (record["source"], record["name"]) == ("hub", "someone/reader")
        assert record["revision"] == commit
    assert fresh.behind_hub.any()
    assert np.array_equal(fresh.masks["hub reader"], fresh.behind_hub)
    assert not np.array_equal(fresh.masks["hub reader's branch"], fresh.behind_hub)


def test_shared_again_it_is_the_same(fresh):
    """Though the other process had its reader from a cache of its own."""
    for name in ("config.json", "model.safetensors"):
        assert (fresh.folders[1] / name).read_bytes() == (fresh.folders[0] / name).read_bytes()


def scramble(reader: Path) -> None:
    """Other weights of the same sizes."""
    weights = load_file(reader / "model.safetensors")
    changed = {key: value.flip(0).contiguous() for key, value in weights.items()}
    save_file(changed, reader / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(scope="module")
def small_head(
    data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, np.ndarray]:
    """A random head behind a random small Qwen2.5-VL in a folder: head, reader, masks."""
    folder = tmp_path_factory.mktemp("small")
    reader = save_small_folder(data_dir, "qwen2_5_vl", folder / "Small-Qwen")
    changes = {"reader": str(reader), "model.model.max_pixels": 200704}
    changes["model.model.token_merge"] = "max"
    config = load_config(TINY, changes)
    torch.manual_seed(0)
    inferencer = GroundingInferencer.from_model(MODELS.build(config.model))
    save_pretrained(inferencer.model, config, folder / "head")
    return folder / "head", reader, inferencer(SCENE, PHRASES).masks


def test_a_reader_in_a_folder(small_head, fresh):
    folder, reader, masks = small_head
    record = json.loads((folder / "config.json").read_text())
    assert record["reader"]["name"] == "Small-Qwen" and record["reader"]["revision"] is None
    assert record["model"]["model"]["token_merge"] == "max"
    assert str(reader.parent) not in (folder / "config.json").read_text()
    assert masks.any() and not masks.all()
    assert np.array_equal(fresh.masks["small"], masks)


def test_a_folder_is_found_by_its_name(small_head, tmp_path, monkeypatch):
    folder, reader, _ = small_head
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError,
        match=r"Small-Qwen \(qwen2_5_vl, 4 layers x 4 heads.*"
        r"neither here nor in checkpoints/.*'reader': FOLDER",
    ):
        load_pretrained(folder)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/Small-Qwen").symlink_to(reader)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_pretrained(folder).model.model.name_or_path == "checkpoints/Small-Qwen"


def test_another_reader(small_head, head, own_head, tmp_path):
    with pytest.raises(
        ValueError,
        match=r"trained for reader the toy embedded.*5 layers x 6 heads"
        ".*has qwen2_5_vl, 4 layers x 4 heads, width 64: give",
    ):
        load_pretrained(head, cfg_options={"reader": str(small_head[1])})
    same = shutil.copytree(TINY_FOLDER, tmp_path / "same")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_pretrained(head, cfg_options={"reader": str(same)})
    scramble(same)
    with pytest.warns(UserWarning, match="its weights differ from those of the training"):
        load_pretrained(head, cfg_options={"reader": str(same)})
    content = (same / "model.safetensors").read_bytes()
    (same / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors is missing, cut off or damaged"):
        load_pretrained(head, cfg_options={"reader": str(same)})


def test_the_fingerprint_ignores_how_weights_are_split(tmp_path):
    weights = load_file(TINY_FOLDER / "model.safetensors")
    files = {"a.safetensors": {}, "b.safetensors": {}}
    places = {}
    for index, (key, value) in enumerate(weights.items()):
        name = list(files)[index % 2]
        files[name][key], places[key] = value, name
    for name, part in files.items():
        save_file(part, tmp_path / name)
    index = {"weight_map": places}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert sample_files_hash(tmp_path) == sample_files_hash(TINY_FOLDER)


def test_every_setting_is_written_out(head, inferencer):
    record = json.loads((head / "config.json").read_text())
    reader = record["model"]["model"]
    assert reader["prompt"] == inferencer.model.vlm.default_prompt
    limits = inferencer.model.vlm.image_processor.pixel_limits
    assert (reader["min_pixels"], reader["max_pixels"]) == limits
    assert reader["dtype"] == "float32" and record["selectors"] == list(inferencer.selectors)
    assert record["refiner"]["sha256"] == hashlib.sha256(TINY_WEIGHTS.read_bytes()).hexdigest()
    assert record["model"]["sam"]["use_text"] is True
    assert sorted(path.name for path in head.iterdir()) == [
        "README.md", "config.json", "model.safetensors"
    ]  # fmt: skip
    keys = load_file(head / "model.safetensors").keys()
    assert keys == inferencer.model.state_dict().keys()
    assert not any("image_encoder" in key or key.startswith("vlm") for key in keys)


def test_a_head_is_not_overwritten_unasked(own_head, inferencer, tmp_path):
    (own_head / "README.md").write_text("mine")
    (own_head / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds model\.safetensors, README\.md, config"):
        inferencer.save_pretrained(own_head)
    assert (own_head / "README.md").read_text() == "mine"
    inferencer.save_pretrained(own_head, overwrite=True)
    assert (own_head / "README.md").read_text() != "mine"
    assert (own_head / "notes.txt").read_text() == "mine"
    with pytest.raises(FileExistsError, match="is a file"):
        inferencer.save_pretrained(own_head / "notes.txt")
    ready = GroundingInferencer.from_model(inferencer.model)
    with pytest.raises(ValueError, match="made from a ready model"):
        ready.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def with_sam(config: Config, **settings: Any) -> Config:
    config = copy.deepcopy(config)
    config.model.sam.update(settings)
    return config


def test_sams_own_file(inferencer, tmp_path, monkeypatch):
    """Named with its hash, looked for in checkpoints/ and beside the head, never shared."""
    original = tmp_path / "elsewhere/sam_tiny_1.safetensors"
    original.parent.mkdir()
    shutil.copy(TINY_WEIGHTS, original)
    config = with_sam(inferencer.config, checkpoint=str(original))
    head = save_pretrained(inferencer.model, config, tmp_path / "head")
    assert "elsewhere" not in (head / "config.json").read_text()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError,
        match=r"sam_tiny_1\.safetensors are neither in checkpoi"
        r"nts/ nor in .*download them from https.*model\.sam\.checkpoint=PATH",
    ):
        load_pretrained(head)
    given = {"model.sam.checkpoint": str(original)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_pretrained(head, cfg_options=given).model.sam.checkpoint == str(original)
        shutil.copy(original, head)
        assert load_pretrained(head).model.sam.checkpoint == str(head / original.name)
        (tmp_path / "checkpoints").mkdir()
        shutil.copy(original, "checkpoints")
        assert load_pretrained(head).model.sam.checkpoint == f"checkpoints/{original.name}"
    weights = load_file(original)
    save_file({key: value + 1 for key, value in weights.items()}, f"checkpoints/{original.name}")
    with pytest.raises(ValueError, match=r"checkpoints/sam_tiny_1.* has SHA-256 .* download it"):
        load_pretrained(head)
    given = {"model.sam.checkpoint": f"checkpoints/{original.name}"}
    with pytest.warns(UserWarning, match="has SHA-256"):
        load_pretrained(head, cfg_options=given)


def test_random_sam_is_not_shared(inferencer, tmp_path):
    config = with_sam(inferencer.config, model_name="vit_b", checkpoint=None)
    with pytest.raises(ValueError, match="built without published weights, with random weights"):
        save_pretrained(inferencer.model, config, tmp_path / "head")
    assert not (tmp_path / "head").exists()


def test_weights_that_are_not_finite_are_not_shared(inferencer, tmp_path):
    model = copy.deepcopy(inferencer.model)
    with torch.no_grad():
        model.mask_head.conv_seg.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"mask_head\.conv_seg\.bias holds NaN or infinite"):
        save_pretrained(model, inferencer.config, tmp_path / "head")
    assert not (tmp_path / "head").exists()


def test_a_keyword_selector_is_shared(tmp_path):
    config = load_config(TINY)
    config.model.keyword_selector = {"type": "KeywordSelector", "threshold": 0.3}
    config.selectors = ("brackets", "keywords")
    model = build_without_reader_weights(config)
    torch.nn.init.normal_(model.keyword_selector.linear.weight)
    head = save_pretrained(model, config, tmp_path / "head")
    found = GroundingInferencer.from_pretrained(head, device="cpu")
    selector = found.model.keyword_selector
    assert selector.threshold == 0.3 and list(found.selectors) == ["brackets", "keywords"]
    assert torch.equal(selector.linear.weight, model.keyword_selector.linear.weight)


def test_settings_can_be_overridden(head):
    options = {"model.model.dtype": "bfloat16", "model.model.prompt": "What is it?"}
    config = load_pretrained(head, cfg_options=options)
    model = build_without_reader_weights(config)
    assert model.vlm.dtype == torch.bfloat16 and model.vlm.default_prompt == "What is it?"


@pytest.mark.parametrize(
    ("name", "revision", "error", "message"),
    [
        ("someone/head", None, OSError, "neither a folder nor in the hub's cache.*HF_HUB_OFFLINE"),
        ("someone/head", "v1", OSError, "someone/head at revision v1 is neither a folder"),
        ("no/such/folder", None, FileNotFoundError, "there is no folder no/such/folder, and"),
        ("docs", "v1", ValueError, "docs is a folder: revision='v1' is for a hub id"),
        ("docs", None, FileNotFoundError, "docs holds no head"),
    ],
)
def test_no_head_there(name, revision, error, message):
    with pytest.raises(error, match=message):
        GroundingInferencer.from_pretrained(name, device="cpu", revision=revision)


def test_the_hub_says_no(head, monkeypatch):
    """Real answers of the real client."""
    with serve_hub({"someone/head": {"main": head}}) as endpoint:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        with pytest.raises(OSError, match=r"no such repository on the hub .*hf auth login"):
            find_head("someone/nothing")
        with pytest.raises(OSError, match="someone/head on the hub has no revision 'v9'"):
            find_head("someone/head", "v9")
