"""Names: the toy, configs, heads and hub ids, from anywhere, or the nearest name."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest

from flmm import GroundingInferencer
from flmm.config import load_config
from flmm.config.reading import TINY_HEAD, find_config, list_configs, resolve_name
from flmm.readers.qwen import FrozenQwen
from flmm.sharing.exporting import build_without_reader_weights
from flmm.sharing.head_files import find_head, read_head
from flmm.sharing.sharing import describe_head, load_config_or_head

ROOT = Path(__file__).parents[2]
TINY_CONFIG = ROOT / "configs/tiny/tiny_unet_sam_shapes.py"
SCENE = ROOT / "docs/images/scene.png"
PHRASES = ["the red triangle", "the small blue square"]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with nothing in it but a folder that is called like the toy."""
    monkeypatch.chdir(tmp_path)
    Path("tiny").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        "tiny_unet_sam_shapes",
        "tiny_unet_sam_shapes.py",
        "tiny/tiny_unet_sam_shapes",
        "configs/tiny/tiny_unet_sam_shapes.py",
        str(TINY_CONFIG),
        TINY_CONFIG,
    ],
)
def test_a_config_is_found_from_anywhere(elsewhere, name):
    assert resolve_name(name) == find_config(name) == TINY_CONFIG


def test_the_other_names(elsewhere):
    assert resolve_name("tiny") == TINY_HEAD and find_config("tiny") == TINY_CONFIG
    assert resolve_name("./tiny") == Path("tiny")
    assert resolve_name("owner/name") == "owner/name"
    shutil.copy(TINY_CONFIG, "mine.py")
    assert resolve_name("mine.py") == Path("mine.py")
    names = [path.stem for path in list_configs()]
    assert len(names) == len(set(names)) >= 25 and "adamw_tiny" not in names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny_unet_sam_shape", "did you mean tiny_unet_sam_shapes"),
        ("configs/tiny/tiny_unet_sam_shaps.py", "did you mean tiny_unet_sam_shapes"),
        ("qwen2_5_vl_3b_unet_sam_l_refcocog", "did you mean qwen2_5_vl_3b_unet_sam_l_refcoco"),
        ("/nowhere/tiny_png_shapes.py", "did you mean tiny_png_shapes"),
        ("tinny", r"did you mean tiny\?"),
        ("zzz", "no config and no head zzz; a config is named by its path or bare name"),
        ("configs/absent.py", "no config and no head configs/absent.py;"),
    ],
)
def test_a_typo_is_told_with_the_nearest_names(elsewhere, name, message):
    for look in (resolve_name, find_config, load_config_or_head, load_config):
        with pytest.raises(FileNotFoundError, match=message) as caught:
            look(name)
        assert "\n" not in str(caught.value)


def test_what_is_no_config(elsewhere):
    with pytest.raises(ValueError, match=r"model\.safetensors is no config .* as the checkpoint"):
        resolve_name(TINY_HEAD / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"is no config \(a folder\).*model\.safetensors as the ch"
    ):
        load_config(TINY_HEAD)
    with pytest.raises(FileNotFoundError, match=r"owner/name is no config \(no such folder"):
        load_config("owner/name")
    with pytest.raises(OSError, match=r"hub cannot be reached.*did you mean tiny_unet_sam_shapes"):
        load_config_or_head("shapes/tiny_unet_sam_shapez")


def test_yaml_is_no_config(tmp_path):
    """mmengine's reader of YAML runs what the file names."""
    mark = tmp_path / "ran"
    path = tmp_path / "config.yaml"
    path.write_text(f'model: !!python/object/apply:os.system ["touch {mark}"]\n')
    for ask in (load_config, GroundingInferencer):
        with pytest.raises(ValueError, match=r"config\.yaml is no config \(these are Python files"):
            ask(path)
    assert not mark.exists()


def test_the_toy_by_its_name_is_the_toy_of_its_config(elsewhere):
    by_name, by_config = GroundingInferencer("tiny", device="cpu"), GroundingInferencer(TINY_CONFIG)
    assert tuple(by_name.selectors) == tuple(by_config.selectors)
    one, other = (grounder(SCENE, PHRASES) for grounder in (by_name, by_config))
    assert one.masks.any() and np.array_equal(one.masks, other.masks)


def drop_nothings(settings: Any) -> Any:
    """Without what is ``None``: a setting that came later is at its default in an older head."""
    if not isinstance(settings, dict):
        return settings
    return {key: drop_nothings(value) for key, value in settings.items() if value is not None}


def test_the_embedded_head_has_the_settings_of_its_config():
    """Whoever changes one exports the other again (docs/tiny_model.md)."""
    config = load_config(TINY_CONFIG)
    described = json.loads(json.dumps(describe_head(build_without_reader_weights(config), config)))
    kept = json.loads((TINY_HEAD / "config.json").read_text())
    described["model"]["presence"] = {"type": "PresenceRule", "rule": "tiny"}  # the head's alone
    for key in ("model", "reader", "refiner", "selectors"):
        assert drop_nothings(kept[key]) == drop_nothings(described[key])
    assert read_head(TINY_HEAD)["format"] == "flmm"


@pytest.fixture
def dead_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A server that hangs up on everybody; gives the number of its callers."""
    calls = [0]
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)

        def hang_up() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                calls[0] += 1
                connection.close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        yield calls
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_a_hub_that_is_not_there_is_not_asked_again_and_again(dead_hub):
    """Its client alone asks six times, and waits 23 seconds in between."""
    with pytest.raises(
        OSError, match=r"hub cannot be reached \(HF_HUB_OFFLINE, or no connection\)"
    ):
        find_head("someone/head")
    with pytest.raises(OSError, match="no model can be loaded from 'someone/reader'"):
        FrozenQwen("someone/reader")
    assert 1 <= dead_hub[0] <= 3  # the client asks for a list of its own once, beside


def test_names_work_without_the_repository(tmp_path):
    """As from a wheel, whose configs and other data lie in the package."""
    source, site = tmp_path / "source", tmp_path / "site"
    for name in ("flmm", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    wanted = {path.relative_to(source / "flmm") for path in (source / "flmm").rglob("*")}
    build = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(site)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    shutil.rmtree(source)
    assert wanted <= {path.relative_to(site / "flmm") for path in (site / "flmm").rglob("*")}
    code = (
        "import flmm; from flmm.config import load_config\n"
        "from flmm.config.reading import find_config, resolve_name\n"
        "print(flmm.__file__, find_config('tiny_unet_sam_shapes'), resolve_name('tiny'))\n"
        "load_config('qwen2_5_vl_3b_unet_sam_l_refcoco')\n"
    )
    environ = os.environ | {"PYTHONPATH": str(site)}
    process = [sys.executable, "-c", code]
    done = subprocess.run(process, capture_output=True, text=True, cwd=tmp_path, env=environ)
    assert done.returncode == 0, done.stderr
    paths = [Path(path) for path in done.stdout.split()]
    assert len(paths) == 3 and all(path.is_relative_to(site) and path.exists() for path in paths)
