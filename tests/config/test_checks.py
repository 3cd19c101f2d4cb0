"""Misspelt settings are refused with the nearest name; everything that works goes on working."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import HOOKS, OPTIMIZERS, PARAM_SCHEDULERS
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings

from flmm.config import load_config, override
from flmm.config.checks import is_read, list_top_level_keys
from flmm.config.signatures import find_signature
from flmm.registry import DATASETS, METRICS, MODELS
from flmm.registry import HOOKS as FLMM_HOOKS
from tests.test_configs import KINDS

ROOT = Path(__file__).parents[2]
TINY = ROOT / "configs/tiny/tiny_unet_sam_shapes.py"

REFUSED = [
    ("modle.sam", None, "'modle.sam', which nothing reads: did you mean 'model'?"),
    ("readr", "x", "did you mean 'reader'?"),
    ("wieghts", "x", "did you mean 'weights'?"),
    ("my_own", 1, "'my_own', which nothing reads: a key of your own belongs into the config"),
    ("model.sam.chekpoint", "x", "of SAMRefiner: did you mean 'checkpoint'?"),
    ("model.model.token_merg", "max", "of FrozenQwen: did you mean 'token_merge'?"),
    ("model.token_merg", "max", "of FrozenQwenSAM: known are data_preprocessor, keyword_selector"),
    ("model.loss_mask.use_sigmod", True, "mmdet.CrossEntropyLoss: did you mean 'use_sigmoid'?"),
    ("train_dataloader.batch_siz", 3, "'train_dataloader.batch_siz': did you mean 'batch_size'?"),
    ("train_dataloader.dataset.bad_recods", "stop", "did you mean 'bad_records'?"),
    ("train_dataloader.sampler.shufle", False, "did you mean 'shuffle'?"),
    ("train_cfg.max_iter", 3, "of IterBasedTrainLoop: did you mean 'max_iters'?"),
    ("optim_wrapper.optimizr.lr", 1, "of OptimWrapper: did you mean 'optimizer'?"),
    ("optim_wrapper.optimizer.l", 1, "of AdamW: did you mean 'lr'?"),
    ("optim_wrapper.clip_grad.max_nrm", 1, "clip_grad.max_nrm': did you mean 'max_norm'?"),
    ("param_scheduler.1.eta_mim", 1, "of CosineAnnealingLR: did you mean 'eta_min'?"),
    ("default_hooks.chekpoint.interval", 3, "did you mean 'checkpoint'?"),
    ("default_hooks.checkpoint.intervall", 3, "of CheckpointHook: did you mean 'interval'?"),
    ("randomness.sed", 1, "'randomness.sed': did you mean 'seed'?"),
    ("max_iters", 20, "'max_iters' is a variable of .*override what is made of it"),
    ("dataset.bad_records", "stop", "'dataset' is a variable of .*override what is made of it"),
    ("train_dataloader.batch_size", "two", "batch_size is 'two', a str: give None or int"),
    ("model.mask_head.base_channels", 1.5, "base_channels is 1.5, a float: give int"),
    ("model.sam", "vit_b", "model.sam='vit_b' would replace all settings of SAMRefiner: name one"),
]
ALLOWED = [
    {"model.sam": None},
    {"model.keyword_selector": None, "model.loss_dice": None},
    {"optim_wrapper.clip_grad.max_norm": 1},
    {"optim_wrapper.clip_grad": None},
    {"optim_wrapper.accumulative_counts": 4},
    {"optim_wrapper.paramwise_cfg.custom_keys.sam.lr_mult": 0.1},
    {"default_hooks.ema": {"type": "EMAHook", "momentum": 0.1}},
    {"default_hooks.runtime_info": None},
    {"custom_hooks": [{"type": "EarlyStoppingHook", "monitor": "cIoU", "priority": "LOW"}]},
    {"custom_imports.imports": ["json"]},
    {"vis_backends": [], "visualizer.vis_backends": [{"type": "LocalVisBackend"}]},
    {"val_dataloader": None, "val_cfg": None, "val_evaluator": None},
    {"find_unused_parameters": True, "compile_mask_head": True},
    {"feature_cache.dir": "cache", "train_dataloader.num_batch_per_epoch": 3},
    {"param_scheduler.0.end": 3, "model.model.max_pixels": None, "log_level": "ERROR"},
    {"train_dataloader.dataset": {"_delete_": True, "type": "MyOwnDataset", "anything": 1}},
    {"env_cfg.dist_cfg.timeout": 60, "randomness.deterministic": True},
]


@pytest.mark.parametrize(("key", "value", "message"), REFUSED, ids=[row[0] for row in REFUSED])
def test_an_override_that_changes_nothing_is_refused(key: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(TINY, {key: value})


@pytest.mark.parametrize("options", ALLOWED, ids=lambda options: ",".join(options))
def test_an_override_that_somebody_reads_is_merged(options: dict) -> None:
    config = load_config(TINY, options)
    wanted = Config.fromfile(TINY)
    wanted.merge_from_dict(options)
    for name in wanted:
        assert config[name] == wanted[name]


def test_every_kind_of_config_passes() -> None:
    assert len(KINDS) > 5
    for path in KINDS:
        load_config(path)


def write(folder: Path, text: str) -> Path:
    path = folder / "own.py"
    path.write_text(f'"""Says weight and modle here."""\n_base_ = ["{TINY}"]\n{text}')
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle = dict(sam=None)", "nobody reads 'modle': did you mean 'model'?"),
        ("train_dataloder = dict(batch_size=2)", "did you mean 'train_dataloader'?"),
        ("weight = 'other.pth'  # weight", "nobody reads 'weight': did you mean 'weights'?"),
        ("model = dict(sam=dict(chekpoint='x'))", "'model.sam.chekpoint' of SAMRefiner"),
    ],
)
def test_a_file_that_says_what_nobody_reads_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(write(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    [
        "weight = 0.5\nmodel = dict(loss_dice=dict(loss_weight=weight))",
        "modle = dict(sam=None)\nmodel = dict(**modle)",
        "weight = 0.5",  # nothing like weights holds a number
        "my_note = 'anything'",
    ],
)
def test_variables_of_ones_own_are_free(tmp_path: Path, text: str) -> None:
    load_config(write(tmp_path, text))


def test_a_variable_for_ones_own_code_can_be_overridden(tmp_path: Path) -> None:
    path = write(tmp_path, "my_threshold = 0.5\n")
    assert load_config(path, {"my_threshold": 0.7}).my_threshold == 0.7


def test_reading_is_told_from_writing() -> None:
    text = '"""weight"""\nweight = 1  # weight\ndict(weight=2)\nname = "weight"\n'
    assert not is_read("weight", text)
    for use in ("model = weight", "dict(**weight)", '"{{_base_.weight.x}}"', "weight == 1"):
        assert is_read("weight", f"{text}{use}\n")


def test_configs_in_memory_are_checked(tmp_path: Path) -> None:
    config = Config.fromfile(TINY)
    with pytest.raises(ValueError, match="did you mean 'reader'"):
        override(config, {"readr": "x"})
    config.model.sam["use_boxes"] = True
    with pytest.raises(ValueError, match=r"'model\.sam\.use_boxes' of SAMRefiner.*'use_box'"):
        override(config, {})


@pytest.mark.parametrize("registry", [MODELS, DATASETS, METRICS, FLMM_HOOKS], ids=lambda r: r.name)
def test_signatures_are_those_of_the_classes(registry) -> None:
    registry.import_from_location()
    kinds = {name: kind for name, kind in registry.module_dict.items() if "flmm." in str(kind)}
    assert kinds
    for name, kind in kinds.items():
        check_signature(name, kind)


@pytest.mark.parametrize("registry", [HOOKS, OPTIMIZERS, PARAM_SCHEDULERS], ids=lambda r: r.name)
def test_signatures_of_mmengine_and_torch_are_those_of_the_classes(registry) -> None:
    import_modules_from_strings(["mmengine.hooks", "mmengine.optim"])
    for kind in registry.module_dict.values():
        if kind.__module__.startswith(("mmengine.", "torch.")):
            check_signature(f"{kind.__module__.partition('.')[0]}.{kind.__name__}", kind)


def check_signature(name: str, kind: type) -> None:
    """What Python itself can tell of a constructor is known, and nothing that it refuses is."""
    found = find_signature(name)
    parameters = inspect.signature(kind).parameters.values()
    named = {item.name for item in parameters if item.kind not in (item.VAR_KEYWORD,)} - {"args"}
    assert found is not None, name
    assert named <= found.names, name
    if not any(item.kind is item.VAR_KEYWORD for item in parameters):
        assert found.names == named, name
        assert not found.is_open


def test_what_mmengines_runner_reads_is_known() -> None:
    source = inspect.getsource(Runner)
    read = set(re.findall(r"cfg\.get\(\s*'(\w+)'", source.partition("def from_cfg")[2]))
    own = {"by_epoch", "type", "seed", "cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"}
    nested = {"num_workers", "diff_rank_seed", "deterministic", "dataset", "mp_start_method"}
    assert read - own - nested <= list_top_level_keys() | {"opencv_num_threads"}


def test_nothing_heavy_is_imported_before_the_refusal(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom flmm.config import load_config\n"
        f"try: load_config({str(TINY)!r}, {{'model.sam.chekpoint': 1}})\n"
        "except ValueError: print([m for m in ('torch', 'transformers', 'mmdet') if m in "
        "sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr
