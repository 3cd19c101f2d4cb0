"""Trainings of the tiny model with a feature cache, as users run them."""

import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.dataset import ConcatDataset
from mmengine.hooks import Hook
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from flmm.config import load_config
from flmm.registry import DATASETS, HOOKS
from flmm.toy.shape_files import write_dataset
from flmm.training.feature_caching import fill_cache, open_cache, warn_of_redraws
from tests.features.conftest import listening
from tests.forks import Fork, finish_ranks, start_ranks
from tests.test_training_runs import read_losses
from tests.training.toy_training import read_logs, train

ROOT = Path(__file__).parents[1]
CONFIG = f"""
_base_ = ["{ROOT}/configs/tiny/tiny_unet_sam_shapes.py"]
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False,
                        dataset=dict(redraw=False, max_expressions=3))
val_dataloader = dict(num_workers=0)
test_dataloader = dict(num_workers=0)
train_cfg = dict(max_iters=8, val_interval=8)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=100),
                     examples=dict(count=0))
param_scheduler = []
"""
IMAGES = 10  # of them 8 to train on and 1 to validate: two epochs are 8 iterations


@HOOKS.register_module(force=True)
class StopHook(Hook):
    """Stops a training as Ctrl-C does, after its third iteration."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 2:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("caching")
    write_dataset(folder / "shapes", num_images=IMAGES, seed=3)
    path = folder / "short.py"
    path.write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLMM_DATA_ROOT", str(folder / "shapes"))
        yield path


@pytest.fixture
def calls() -> Iterator[Counter]:
    """How often each class of modules runs; of SAM's encoder, for how many pictures."""
    counter: Counter = Counter()

    def count(module: nn.Module, inputs: tuple[Tensor, ...], _: object) -> None:
        name = type(module).__name__
        counter[name] += len(inputs[0]) if name == "ImageEncoderViT" else 1

    handle = register_module_forward_hook(count)
    yield counter
    handle.remove()


def count_frozen(calls: Counter) -> tuple[int, int]:
    """Passes of the reader's decoder and of SAM's image encoder."""
    return calls["Qwen2_5_VLTextModel"], calls["ImageEncoderViT"]


def list_images(path: Path) -> dict[str, int]:
    config = load_config(path)
    splits = {"train": config.train_dataloader, "val": config.val_dataloader}
    return {name: len(DATASETS.build(loader.dataset)) for name, loader in splits.items()}


def compare_losses(found: Path, wanted: Path) -> list[float]:
    """Differences between the losses of two runs, step by step."""
    one, other = read_losses(found), read_losses(wanted)
    assert one.keys() <= other.keys() and len(other) == 8
    return [abs(one[step][0] - other[step][0]) for step in sorted(one)]


@pytest.fixture(scope="module")
def plain(config: Path) -> Path:
    """Work folder of the training without a cache."""
    train(config, str(config.parent / "plain"), {})
    return config.parent / "plain"


@pytest.mark.parametrize(
    # Rounding grows from step to step, as the weights part.
    ("dtype", "first_step", "last_step"),
    [("float32", 1e-6, 1e-6), pytest.param("float16", 3e-4, 3e-2, marks=pytest.mark.heavy)],
)
def test_a_second_epoch_asks_no_frozen_model(
    config, plain, calls, dtype, first_step, last_step, tmp_path
):
    settings = {"dir": str(tmp_path / "cache"), "dtype": dtype}
    train(config, str(tmp_path / "first"), {"feature_cache": settings})
    images = list_images(config)
    assert calls["ImageEncoderViT"] == images["train"] + images["val"]
    assert calls["UNetHead"] >= 8
    assert max(compare_losses(tmp_path / "first", plain)) <= last_step
    log = read_logs(str(tmp_path / "first"))
    assert "0.0 GB of these settings are there already (0 entries), 0.0 GB of others" in log

    calls.clear()
    more = {"feature_cache": settings, "train_cfg.max_iters": 1}
    train(config, str(tmp_path / "second"), more)
    assert count_frozen(calls) == (0, 0) and calls["UNetHead"] >= 2  # the end validates
    (difference,) = compare_losses(tmp_path / "second", plain)
    assert difference <= first_step
    assert not re.search(r"WARNING - .*feature cache", read_logs(str(tmp_path / "second")))


def test_epochs_that_draw_anew_are_warned_of(config, tmp_path):
    options = {"train_dataloader.dataset.redraw": True, "train_cfg.max_iters": 1}
    options["feature_cache"] = {"dir": str(tmp_path / "cache"), "max_gb": 1e-6}
    train(config, str(tmp_path / "work"), options)
    log = read_logs(str(tmp_path / "work"))
    assert "draws other phrases in every epoch (text_mode='random', max_expressions=3)" in log
    assert "set redraw=False in train_dataloader.dataset" in log
    assert "takes nothing more: it has reached max_gb=1e-06" in log


@pytest.mark.heavy
def test_an_interrupted_training_keeps_what_it_has_computed(config, calls, tmp_path):
    options = {"feature_cache": {"dir": str(tmp_path)}, "custom_hooks": [{"type": "StopHook"}]}
    with pytest.raises(KeyboardInterrupt):
        train(config, str(tmp_path / "work"), options)
    assert calls["ImageEncoderViT"] == 6
    calls.clear()
    del options["custom_hooks"]
    train(config, str(tmp_path / "work2"), {**options, "train_cfg.max_iters": 3})
    assert calls["ImageEncoderViT"] == list_images(config)["val"]  # the end validates


@pytest.mark.process
def test_a_killed_training_keeps_what_it_has_computed(config, calls, tmp_path):
    cache = tmp_path / "cache"
    command = [ROOT / "tools/train.py", config, "--work-dir", tmp_path / "work"]
    older = "feature_cache.shard_mb=64"  # means nothing any more
    command += ["--cfg-options", f"feature_cache.dir={cache}", older]
    process = Fork(*command)
    while process.poll() is None and len(list(cache.glob("refiner-*/*/*.safetensors"))) < 3:
        time.sleep(0.005)
    process.kill()
    assert "Iter(train) [8/8]" not in process.finish().stdout
    found = fill_cache(load_config(config, {"feature_cache.dir": str(cache)}), ["train", "val"])
    images = list_images(config)
    assert 0 < calls["ImageEncoderViT"] < sum(images.values())
    assert len(found.encodings) == sum(images.values())


@pytest.mark.process
def test_filled_ahead_by_two_processes(config, plain, calls, tmp_path):
    command = [ROOT / "tools/cache_features.py", config, "--splits", "train", "val"]
    command += ["--launcher", "pytorch", "--cfg-options", "feature_cache.dtype=float32"]
    text = "".join(finish_ranks(start_ranks(*command, f"feature_cache.dir={tmp_path / 'cache'}")))
    assert "train: 100%" in text and "val: 100%" in text
    assert text.count("feature cache") >= 3 and "'max_expressions'" not in text
    train(
        config,
        str(tmp_path / "work"),
        {
            "feature_cache": {"dir": str(tmp_path / "cache"), "dtype": "float32"},
            "train_cfg.max_iters": 4,
        },
    )
    assert count_frozen(calls) == (0, 0)
    differences = compare_losses(tmp_path / "work", plain)
    # Other pictures were read together: the last bit of a map, which grows as the weights part.
    assert differences[0] <= 1e-6 and max(differences) <= 1e-3 and len(differences) == 4


@pytest.mark.parametrize("redraw", [True, False])
def test_without_redraw_every_epoch_asks_the_same(config, tmp_path, redraw):
    captions = load_config(ROOT / "configs/tiny/tiny_png_shapes.py").test_dataloader.dataset
    captions.update(max_phrases=1, redraw=redraw)
    scenes = load_config(config).train_dataloader.dataset
    scenes.update(max_expressions=2, redraw=redraw)
    for cfg in (scenes, captions):
        dataset, asked = DATASETS.build(cfg), []
        for epoch in range(4):
            dataset.set_epoch(epoch)
            records = [dataset.build_record(index) for index in range(len(dataset))]
            asked.append([record["continuations"] for record in records])
        assert all(one == asked[0] for one in asked) is not redraw


def test_data_sets_that_draw_anew_are_found_in_any_wrapper(config):
    scenes = load_config(config).train_dataloader.dataset
    captions = load_config(ROOT / "configs/tiny/tiny_png_shapes.py").test_dataloader.dataset
    every = [scenes, {**captions, "max_phrases": 1}, {**scenes, "text_mode": "all"}, captions]
    every[2]["max_expressions"] = None
    fixed, drawn = (
        ConcatDataset([DATASETS.build({**cfg, "redraw": redraw}) for cfg in every])
        for redraw in (False, True)
    )
    with listening() as messages:
        warn_of_redraws(fixed)
        assert not messages
        warn_of_redraws(drawn)
    assert len(messages) == 2
    assert "(text_mode='random', max_expressions=3)" in messages[0]
    assert "(max_phrases=1)" in messages[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "float32"}, "feature_cache has no dir: its keys are dir, dtype, max_gb"),
        ({"dir": "a", "max_bg": 3}, "feature_cache does not know 'max_bg': its keys are dir"),
    ],
)
def test_wrong_keys_are_told(config, settings, message):
    loaded = load_config(config)
    loaded.feature_cache = settings
    with pytest.raises(ValueError, match=message):
        fill_cache(loaded)


def test_a_model_without_frozen_features_is_told(config, tmp_path):
    with pytest.raises(TypeError, match="the model is a Linear: leave feature_cache out"):
        open_cache(torch.nn.Linear(1, 1), dir=str(tmp_path))


def test_mistakes_are_told(config, tmp_path):
    with pytest.raises(ValueError, match=r"has no feature_cache: add feature_cache=dict\(dir="):
        fill_cache(load_config(config))
    loaded = load_config(config, {"feature_cache.dir": str(tmp_path)})
    loaded.val_dataloader = None
    with pytest.raises(ValueError, match="has no val_dataloader to fill the cache from"):
        fill_cache(loaded, ["val"])
