"""Every config loads, dumps and builds, and says nothing that the reader's own config knows."""

import ast
import copy
import functools
import inspect
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import ConcatDataset
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope

from flmm.config import load_config
from flmm.data.published import REASON_FOLDER, REFER_DATASETS
from flmm.evaluation.splits import list_referring_splits
from flmm.grounder import FrozenQwenSAM
from flmm.readers.published_sizes import HUB_IDS, PUBLICATIONS, find_size, write_published_model
from flmm.records import as_continuations
from flmm.registry import DATASETS, METRICS, MODELS
from flmm.toy.shape_files import write_dataset
from flmm.training.grounding_runner import GroundingRunner
from tests.masks.sam_configs import SAM2, SAM_HQ

ROOT = Path(__file__).parents[1]
LEAVES = sorted(
    path for path in ROOT.glob("configs/**/*.py") if "_base_" not in path.relative_to(ROOT).parts
)
TINY = [path for path in LEAVES if path.parent.name == "tiny"]
LARGE = [path for path in LEAVES if path not in TINY]
MIXED = [path for path in LARGE if path.stem.endswith("_png")]
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def read_own(path: Path) -> dict[str, Any]:
    """What a large leaf itself says, without reading what it is based on."""
    body = ast.parse(path.read_text()).body
    said = [node for node in body if isinstance(node, ast.Assign)]
    return {ast.unparse(node.targets[0]): ast.unparse(node.value) for node in said}


def pick_one_of_each() -> list[Path]:
    """Large leaves that differ in more than their reader: recipe, and how the reader is loaded."""
    kinds: dict[tuple[str, str], Path] = {}
    for path in LARGE:
        own = read_own(path)
        kinds.setdefault((own["_base_"], own.get("model", "")), path)
    return list(kinds.values())


KINDS = pick_one_of_each()


@pytest.fixture(params=TINY + KINDS, ids=lambda path: path.stem)
def leaf(request: pytest.FixtureRequest) -> Path:
    return request.param


@functools.cache
def _load_once(path: Path) -> Config:
    return load_config(path)


def load(path: Path) -> Config:
    """A config of one's own; reading one takes a tenth of a second."""
    return copy.deepcopy(_load_once(path))


def walk(node: Any) -> Iterator[dict]:
    """Every dict of a config, however deep."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for item in node:
            yield from walk(item)


def find(config: Any, *types: str) -> list[dict]:
    return [node for node in walk(config) if node.get("type") in types]


def list_readers(config: Config) -> list[str]:
    """What the model and every image processor of a config are loaded from."""
    models = find(config._cfg_dict, "FrozenQwen", "FrozenVLM")
    of_qwen = find(config._cfg_dict, "QwenImageProcessorWrapper")
    of_any = find(config._cfg_dict, "ImageProcessorWrapper")
    assert models and len(of_qwen) + len(of_any) >= len(LOADERS)
    named = [item.get("name_or_path") for item in models + of_any]
    return named + [item.get("processor") for item in of_qwen]


def test_there_is_a_config_of_each_flavour_for_every_published_size() -> None:
    expected = {}
    for reader, size in reversed(HUB_IDS.items()):  # the first of a size is the one named
        stem = re.sub("[^a-z0-9]+", "_", size.lower())
        for data in ("refcoco", "refcoco_png"):
            expected[f"{stem}_unet_sam_l_{data}"] = reader
        if size == "Qwen2.5-VL-3B":
            for refiner in ("sam2_l", "sam_hq_l"):
                expected[f"{stem}_unet_{refiner}_refcoco"] = reader
    assert {path.stem: ast.literal_eval(read_own(path)["reader"]) for path in LARGE} == expected


def test_a_large_leaf_says_only_what_is_its_own() -> None:
    spread = "dict(model=dict(device_map='auto'))"
    for path in LARGE:
        own = read_own(path)
        assert {"_base_", "reader"} <= set(own) <= {"_base_", "reader", "model"}
        assert path.stem.endswith(
            Path(ast.literal_eval(own["_base_"])[0]).stem.partition("unet")[2]
        )
        # Weights in bfloat16 that a GPU of 80 GB does not hold beside the rest.
        is_large = PUBLICATIONS[find_size(ast.literal_eval(own["reader"]))].parameters > 32e9
        assert own.get("model") == (spread if is_large else None)
        docstring = ast.get_docstring(ast.parse(path.read_text()))
        assert docstring and ("device_map" in docstring) == is_large
        assert "Train:    " + ("python" if is_large else "torchrun --nproc_per_node=8") in docstring
        command = docstring.partition("Evaluate:")[0]
        assert command.strip().endswith("train_dataloader.batch_size=1") != is_large


def test_it_loads_and_dumps(leaf: Path, tmp_path: Path) -> None:
    config = load(leaf)
    config.dump(tmp_path / "dumped.py")
    assert Config.fromfile(tmp_path / "dumped.py")._cfg_dict.to_dict() == config._cfg_dict.to_dict()


def test_it_tells_command_hardware_and_figure() -> None:
    for path in LEAVES:
        text = path.read_text()
        docstring = ast.get_docstring(ast.parse(text))
        assert docstring
        for word in ("tools/", str(path.relative_to(ROOT)), "Hardware:", "Expected:"):
            assert word in docstring
        assert len(text.splitlines()) < 40


def test_model_and_image_processors_are_of_the_one_reader(leaf: Path) -> None:
    config = load(leaf)
    assert set(list_readers(config)) == {config.reader}


def test_one_option_chooses_another_reader(leaf: Path, tmp_path: Path) -> None:
    config = load_config(leaf, {"reader": "checkpoints/my_reader"})
    assert set(list_readers(config)) == {"checkpoints/my_reader"}
    # Also of a config that a run has written, where nothing is left to be filled in.
    load(leaf).dump(tmp_path / "dumped.py")
    again = load_config(tmp_path / "dumped.py", {"reader": "checkpoints/my_reader"})
    assert set(list_readers(again)) == {"checkpoints/my_reader"}


def test_a_reader_of_its_own_is_left_to_an_image_processor() -> None:
    key = "test_dataloader.dataset.image_processor.name_or_path"
    config = load_config(LARGE[0], {key: "checkpoints/other", "reader": "checkpoints/my_reader"})
    assert config.test_dataloader.dataset.image_processor.name_or_path == "checkpoints/other"
    assert config.val_dataloader.dataset.image_processor.name_or_path == "checkpoints/my_reader"


def test_one_option_moves_all_data() -> None:
    for path in LARGE[:1] + MIXED[:1]:
        config = load_config(path, {"data_root": "/elsewhere"})
        roots = {node["data_root"] for node in walk(config._cfg_dict) if "data_root" in node}
        assert roots == {"/elsewhere"}


def test_sizes_that_the_reader_knows_are_not_repeated() -> None:
    for path in ROOT.glob("configs/**/*.py"):
        for word in ("in_channels", "patch_size", "num_layers", "num_heads", "hidden_size"):
            assert word not in path.read_text()


def test_the_recipe_is_f_lmms() -> None:
    for path in KINDS:
        config = load(path)
        assert config.optim_wrapper.optimizer == dict(
            type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.01
        )
        assert config.optim_wrapper.clip_grad.max_norm == 1
        assert config.optim_wrapper.dtype == "bfloat16"
        assert config.train_cfg.max_epochs == 8
        warm_up, cosine = config.param_scheduler
        assert warm_up.end == cosine.begin == pytest.approx(0.03 * 8)
        assert config.model.mask_head.upsample_input == 64
        # 8 images per step: of one process, or one of each of 8.
        assert config.train_dataloader.batch_size == 8
        assert config.optim_wrapper.get("accumulative_counts", 1) == 1
        assert config.val_dataloader.batch_size == config.test_dataloader.batch_size == 4


def test_the_mixture_is_f_lmms() -> None:
    for path in set(KINDS) & set(MIXED):
        mixture = load(path).train_dataloader.dataset
        assert mixture.type == "ConcatDataset"
        assert [item.ann_file for item in mixture.datasets] == [
            "annotations/png_coco_train2017.json",
            "refcoco/instances.json",
            "refcoco+/instances.json",
            "refcocog/instances.json",
        ]
        splits = [item.get("split_file") for item in mixture.datasets]
        assert splits == [
            None,
            "refcoco/refs(unc).p",
            "refcoco+/refs(unc).p",
            "refcocog/refs(umd).p",
        ]
        for item in mixture.datasets[1:]:
            assert (item.split, item.text_mode, item.joined) == ("train", "random", True)


def test_the_evaluated_splits_are_the_published_ones() -> None:
    names = ["refcoco", "refcoco+", "refcocog"]
    for path in KINDS:
        entries = load(path).eval_datasets
        assert [name for name in entries if not entries[name].get("on_request")] == names
        assert list(entries)[len(names) :] == ["grefcoco", "reasonseg"]
        for name in names:
            published = REFER_DATASETS[name]
            assert entries[name] == dict(
                ann_file=published.ann_file,
                split_file=published.split_file,
                splits=[split for split in published.splits if split != "train"],
            )
        assert sum(len(entries[name].splits) for name in names) == 8
        assert entries["grefcoco"].split_file == REFER_DATASETS["grefcoco"].split_file
        assert entries["reasonseg"].dataset.data_prefix.img_path == f"{REASON_FOLDER}/"


def test_real_records_that_cannot_be_used_are_skipped_and_counted() -> None:
    for path in KINDS:
        config = load(path)
        datasets = [
            node
            for name in LOADERS
            for node in find(config[name], "RefCocoGroundingDataset", "PanopticNarrativeDataset")
        ]
        assert len(datasets) == (6 if path in MIXED else 3)
        assert all(item["bad_records"] == "skip" for item in datasets)


def check_arguments(cfg: dict) -> None:
    """A data set's config names a registered data set and only arguments that it has."""
    cfg = dict(cfg)
    name = cfg.pop("type")
    cls = DATASETS.get(name)
    assert cls is not None and cls.__name__ == name
    known = {key for base in cls.__mro__ for key in inspect.signature(base.__init__).parameters}
    assert set(cfg) <= known - {"self", "args", "kwargs"}
    inspect.signature(cls).bind(**cfg)
    for item in cfg.get("datasets", ()):
        check_arguments(item)


def test_names_and_arguments_of_data_and_metric_exist(leaf: Path) -> None:
    config = load(leaf)
    for name in LOADERS:
        check_arguments(config[name].dataset)
    tested = config.test_dataloader.dataset.type
    if config.get("eval_datasets"):
        for cfg in list_referring_splits(config, list(config.eval_datasets)).values():
            check_arguments(cfg)
    for splits in config.get("eval_png_datasets", {}).values():
        for cfg in splits.values():
            check_arguments(cfg)
    assert METRICS.build(config.val_evaluator)
    metric = METRICS.build(config.test_evaluator)
    others = {"PanopticNarrativeDataset": "PngMetric", "ShapeExpressionDataset": "GRefSegMetric"}
    assert type(metric).__name__ == others.get(tested, "RefSegMetric")


class OneWeight(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, inputs: object, data_samples: object = None, mode: str = "tensor") -> None:
        raise NotImplementedError


def build_schedule(config: Config, records: int, folder: Path) -> GroundingRunner:
    """A runner up to its schedulers, on so many records in the config's batches."""
    loader = config.train_dataloader
    runner = GroundingRunner(
        model=OneWeight(),
        work_dir=str(folder),
        train_dataloader=torch.utils.data.DataLoader(range(records), loader.batch_size),
        train_cfg=config.train_cfg,
        optim_wrapper=config.optim_wrapper,
        param_scheduler=config.param_scheduler,
        log_level="ERROR",
        default_scope=config.default_scope,
        experiment_name=folder.name,
    )
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    return runner


def test_optimiser_and_schedule_build(leaf: Path, tmp_path: Path) -> None:
    runner = build_schedule(load(leaf), 100, tmp_path)
    names = [type(item).__name__ for item in runner.param_schedulers]
    assert names == ["LinearLR", "CosineAnnealingLR"]


@pytest.mark.filterwarnings("ignore:Detected call of `scheduler.step")
@pytest.mark.parametrize(("batch_size", "iterations"), [(8, 2125), (1, 16994)])
def test_the_schedule_follows_the_iterations_of_an_epoch(
    tmp_path: Path, batch_size: int, iterations: int
) -> None:
    """RefCOCO's 16,994 images: whatever the batch, the same share of the training is warm-up."""
    config = load_config(LARGE[0], {"train_dataloader.batch_size": batch_size})
    runner = build_schedule(config, 16994, tmp_path)
    warm_up, cosine = runner.param_schedulers
    assert runner.train_loop.max_iters == 8 * iterations
    assert (warm_up.begin, warm_up.end) == (0, int(0.24 * iterations))
    assert (cosine.begin, cosine.end) == (int(0.24 * iterations), 8 * iterations)
    assert not warm_up.by_epoch and not cosine.by_epoch
    learning_rates = []
    for _ in range(8 * iterations):
        learning_rates += runner.optim_wrapper.get_lr()["lr"]
        warm_up.step()
        cosine.step()
    assert learning_rates[0] == pytest.approx(1e-9)
    assert max(learning_rates) == pytest.approx(1e-4, rel=0.01)
    assert learning_rates.index(max(learning_rates)) == pytest.approx(0.24 * iterations, abs=2)
    assert learning_rates[-1] < 1e-9


def shrink_refiner(config: Config) -> None:
    """The refiner of a config, where it has one, as the same class at toy size."""
    if config.model.sam is None:
        return
    small = {"Sam2Refiner": SAM2, "SamHQRefiner": SAM_HQ}.get(config.model.sam.type)
    if small is None:
        config.model.sam.update(model_name="tiny", checkpoint=None)
    else:
        config.model.sam.update(name_or_path=None, random_init=small)


def test_the_model_builds_with_shrunken_stand_ins(leaf: Path) -> None:
    if not any((ROOT / "flmm/assets").rglob("*.safetensors")):
        pytest.skip("the embedded tiny model is not there")
    config = load_config(leaf, {"reader": "tiny", "model.model.dtype": "float32"})
    shrink_refiner(config)
    model = MODELS.build(config.model)
    trainable = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trainable and trainable <= set(model.state_dict())


@pytest.mark.parametrize("path", KINDS, ids=lambda path: path.stem)
def test_a_shrunken_reader_of_its_own_family_grounds_with_it(path: Path, tmp_path: Path) -> None:
    config = load(path)
    folder = write_published_model(config.reader, tmp_path, is_small=True)
    config.model.model.update(name_or_path=str(folder), random_init=True, dtype="float32")
    config.model.model.pop("device_map", None)
    shrink_refiner(config)
    model = MODELS.build(config.model).eval()
    assert isinstance(model, FrozenQwenSAM) == config.reader.startswith("Qwen/Qwen")
    first = model.mask_head.encoder[0][0].convs[0].conv
    assert first.in_channels == model.vlm.num_channels == 16 * model.vlm.num_grids
    picture = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    with torch.no_grad():
        encoded = model.vlm.image_processor.encode(picture)
        output = model.ground(encoded, as_continuations(["the red cup"]))
    assert output.refined_mask_logits.shape == (1, 60, 90)
    assert output.refined_mask_logits.isfinite().all()


@pytest.fixture(scope="module")
def published_layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few synthetic scenes under the names that the real files have."""
    scenes = tmp_path_factory.mktemp("scenes") / "shapes"
    write_dataset(scenes, num_images=12, seed=0)
    root = tmp_path_factory.mktemp("data") / "coco"
    for folder in ("train2014", "train2017", "val2017"):
        shutil.copytree(scenes / "images", root / folder)
    for name, split_file in (
        ("refcoco", "refs(unc).p"),
        ("refcoco+", "refs(unc).p"),
        ("refcocog", "refs(umd).p"),
    ):
        (root / name).mkdir()
        shutil.copy(scenes / "instances.json", root / name)
        shutil.copy(scenes / "refs(unc).p", root / name / split_file)
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        target = root / "annotations"
        shutil.copy(scenes / f"png_{split}.json", target / f"png_coco_{split}2017.json")
        shutil.copy(scenes / f"panoptic_{split}.json", target / f"panoptic_{split}2017.json")
        shutil.copytree(scenes / f"panoptic_{split}", target / f"panoptic_{split}2017")
    return root


def test_the_mixture_loads_from_the_published_layout(published_layout: Path) -> None:
    config = load_config(MIXED[0], {"data_root": f"{published_layout}/", "reader": "tiny"})
    config.train_dataloader.update(num_workers=0, persistent_workers=False, pin_memory=False)
    init_default_scope(config.default_scope)
    loader = GroundingRunner.build_dataloader(config.train_dataloader, seed=0)
    dataset = loader.dataset
    assert isinstance(dataset, ConcatDataset)
    parts = [len(part) for part in dataset.datasets]
    assert len(dataset) == sum(parts) and min(parts) > 0
    assert len(loader) == -(-sum(parts) // 8)
    loader.sampler.set_epoch(3)
    assert {int(part._epoch) for part in dataset.datasets} == {3}
    captions = joined = 0
    for sample in (sample for batch in loader for sample in batch["data_samples"]):
        (continuation,) = sample.continuations
        assert len(sample.gt_masks) == len(continuation.phrases) <= 16
        captions += "expression_groups" in sample
        joined += "ref_ids" in sample
    assert (captions, joined) == (parts[0], sum(parts[1:]))


def test_validation_and_evaluation_data_load_from_the_published_layout(
    published_layout: Path,
) -> None:
    config = load_config(MIXED[0], {"data_root": f"{published_layout}/", "reader": "tiny"})
    val = DATASETS.build(list_referring_splits(config)["refcocog", "val"])
    assert len(val[0]["data_samples"].continuations) > 1  # every sentence alone
    narratives = dict(config.eval_png_datasets.png.val)
    narratives.setdefault("image_processor", config.test_dataloader.dataset.image_processor)
    sample = DATASETS.build(narratives)[0]["data_samples"]
    assert len(sample.gt_masks) == len(sample.phrases)
