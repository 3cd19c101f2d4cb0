"""Every config loads, dumps and builds, and says nothing that the reader's own config knows."""

import ast
import importlib.util
import inspect
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel

from flmm.datasets.refcoco import RefCocoGroundingDataset
from flmm.engine import GroundingRunner, load_config
from flmm.registry import DATASETS, METRICS, MODELS

ROOT = Path(__file__).parents[1]
LEAVES = sorted(
    path for path in ROOT.glob("configs/**/*.py") if "_base_" not in path.relative_to(ROOT).parts
)
LARGE = [path for path in LEAVES if path.parent.name != "tiny"]


@pytest.fixture(params=LEAVES, ids=lambda path: path.stem)
def leaf(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_there_are_configs_for_every_family() -> None:
    assert {path.parent.name for path in LEAVES} == {"tiny", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"}


def test_it_loads_and_dumps(leaf: Path, tmp_path: Path) -> None:
    config = load_config(leaf)
    config.dump(tmp_path / "dumped.py")
    assert Config.fromfile(tmp_path / "dumped.py")._cfg_dict.to_dict() == config._cfg_dict.to_dict()


def test_it_tells_command_hardware_and_figure(leaf: Path) -> None:
    text = leaf.read_text()
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring
    for word in ("tools/", str(leaf.relative_to(ROOT)), "Hardware:", "Expected:"):
        assert word in docstring
    assert len(text.splitlines()) < 40


def test_reader_and_image_processor_are_of_one_model(leaf: Path) -> None:
    config = load_config(leaf)
    for name in ("train", "val", "test"):
        processor = config[f"{name}_dataloader"].dataset.image_processor
        assert processor.processor == config.model.model.name_or_path


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/**/*.py")), ids=lambda path: path.stem)
def test_sizes_that_the_reader_knows_are_not_repeated(path: Path) -> None:
    for word in ("in_channels", "patch_size", "num_layers", "num_heads", "hidden_size"):
        assert word not in path.read_text()


def test_the_recipe_is_f_lmms() -> None:
    for path in LARGE:
        config = load_config(path)
        assert config.optim_wrapper.optimizer == dict(
            type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.01
        )
        assert config.optim_wrapper.clip_grad.max_norm == 1
        assert config.optim_wrapper.dtype == "bfloat16"
        assert config.train_cfg.max_epochs == 8
        warm_up, cosine = config.param_scheduler
        assert warm_up.end == cosine.begin == pytest.approx(0.03 * 8)
        assert config.model.mask_head.upsample_input == 64


def test_names_and_arguments_of_data_and_metric_exist(leaf: Path) -> None:
    config = load_config(leaf)
    signature = inspect.signature(RefCocoGroundingDataset)
    for name in ("train", "val", "test"):
        dataset = dict(config[f"{name}_dataloader"].dataset)
        assert DATASETS.get(dataset.pop("type")) is RefCocoGroundingDataset
        signature.bind(**dataset)
    assert METRICS.build(config.test_evaluator)


class OneWeight(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, inputs: object, data_samples: object = None, mode: str = "tensor") -> None:
        raise NotImplementedError


def test_optimiser_and_schedule_build(leaf: Path, tmp_path: Path) -> None:
    config = load_config(leaf)
    runner = GroundingRunner(
        model=OneWeight(),
        work_dir=str(tmp_path),
        train_dataloader=torch.utils.data.DataLoader(list(range(100))),
        train_cfg=config.train_cfg,
        optim_wrapper=config.optim_wrapper,
        param_scheduler=config.param_scheduler,
        log_level="ERROR",
        default_scope=config.default_scope,
        experiment_name=f"{leaf.stem}_build",
    )
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    names = [type(item).__name__ for item in runner.build_param_scheduler(runner.param_schedulers)]
    assert names == ["LinearLR", "CosineAnnealingLR"]


def test_the_model_builds_with_shrunken_stand_ins(leaf: Path) -> None:
    if importlib.util.find_spec("flmm.grounder") is None:
        pytest.skip("flmm.grounder does not exist")
    if not any((ROOT / "flmm/assets").rglob("*.safetensors")):
        pytest.skip("the embedded tiny model is not there")
    config = load_config(leaf)
    config.model.model.update(name_or_path="tiny", dtype="float32")
    config.model.sam.update(model_name="tiny", checkpoint=None)
    model = MODELS.build(config.model)
    state = model.state_dict()
    assert state
    assert all(
        parameter.requires_grad for parameter in model.parameters() if parameter.requires_grad
    )
    trainable = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trainable <= set(state)
