"""What users of 0.3.0 have written goes on working: paths, names, configs, checkpoints, heads."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from flmm import GroundingInferencer
from flmm.config import load_config
from flmm.config.reading import TINY_HEAD
from flmm.moved import MOVED, find_new_name
from flmm.registry import DATASETS, HOOKS, IMAGE_PROCESSORS, METRICS, MODELS, TRANSFORMS
from flmm.rle import decode_mask
from flmm.sharing import load_pretrained

pytestmark = pytest.mark.filterwarnings("ignore:flmm:DeprecationWarning")

ROOT = Path(__file__).parents[1]
SCENE = ROOT / "docs/images/scene.png"
HEAD = Path(__file__).parent / "sharing/head_of_0_3_0.json"
# As 0.3.0 had them from the embedded head.
MASKS = {
    "the red triangle": (
        "jkn04a84L3L5jGHg7g0K5L4L3M2N2O10O01N2O1N101N2O1N2M3M3N2N2O1O1O1N2N2N2M3N2O1O2N1N2L4M4N1O"
        "100O1000001O01O2N1O1O001O1O1N3N4L3M2M3N1O2N2N2M4M2N3M2N1O2N1O2N2N1O100O1O1O3M3M3M2O1N2N2"
        "N2N2O0O3M2N1O1O2N1O1N3N1O2M6J[PW2"
    ),
    "the small blue square": (
        "YPa2b0S85L2N2O1N1O2J5N201N10000O10O1000001O001O001O0001N100O100O1000O100O2O0O2O1N2N4Kb0Y"
        "O_]T1"
    ),
}
CONFIG = """
custom_imports = dict(imports=["flmm.datasets.shape_lists"], allow_failed_imports=False)
selectors = ["brackets", dict(type="reader", question="Which?")]
feature_cache = dict(dir=None, dtype="float16", max_gb=1.0, shard_mb=1.0)
eval_datasets = dict()
eval_png_datasets = dict()
compile_mask_head = False
data_root = "data"
reader = "tiny"
weights = "tiny"
model = dict(
    type="FrozenQwenSAM",
    model=dict(type="FrozenQwen", dtype="float32", attn_implementation="sdpa", token_merge="mean",
               prompt=None, processor=None, min_pixels=None, max_pixels=None, device_map=None,
               random_init=False, seed=0),
    mask_head=dict(type="UNetHead", base_channels=32, num_stages=3, strides=(1, 1, 1),
                   enc_num_convs=(2, 2, 2), dec_num_convs=(2, 2), downsamples=(True, True),
                   enc_dilations=(1, 1, 1), dec_dilations=(1, 1),
                   norm_cfg=dict(type="GN", num_groups=1), upsample_cfg=dict(type="InterpConv"),
                   normalize_input=False, upsample_input=32, log_input=True),
    sam=dict(type="SAMRefiner", model_name="tiny", checkpoint=None, use_mask=True, use_box=True,
             use_text=True, multimask_output=False),
    loss_mask=dict(type="mmdet.CrossEntropyLoss", use_sigmoid=True),
    loss_dice=None,
    keyword_selector=dict(type="KeywordSelector", threshold=0.5, frozen=True))
"""
REGISTERED = {
    MODELS: "BoxBaseline FrozenQwen FrozenQwenSAM Grounder KeywordSelector SAMRefiner UNetHead",
    IMAGE_PROCESSORS: "QwenImageProcessorWrapper",
    DATASETS: "RefCocoGroundingDataset PanopticNarrativeDataset",
    TRANSFORMS: "DecodeMasks DecodePanopticMasks DropEmptyMasks EncodeImage LoadRGBImage "
    "PackGroundingInputs",
    METRICS: "PngMetric RefSegMetric",
    HOOKS: "ExampleImagesHook FeatureCacheHook CheckpointHook SkippedRecordsHook",
}


@pytest.fixture(autouse=True)
def forget_old_names():
    """As in a process that has asked for none of them."""
    yield
    for name in [name for name in sys.modules if find_new_name(name)]:
        del sys.modules[name]


@pytest.mark.parametrize("name", MOVED)
def test_an_old_path_is_the_module_of_the_new(name):
    new = find_new_name(name)
    with pytest.warns(DeprecationWarning, match=rf"{name} is now {new}: import that"):
        module = importlib.import_module(name)
    assert module is importlib.import_module(new)
    assert module.__name__ == module.__spec__.name == new


@pytest.mark.parametrize(
    "code",
    [
        "from flmm import Continuation, FrozenQwen, GroundingInferencer",
        "from flmm.structures import Continuation, GroundingSample",
        "from flmm.vlms import FrozenQwen, FrozenVLM, QwenImageProcessorWrapper",
        "from flmm.heads import SAMRefiner, UNetHead",
        "from flmm.datasets.refcoco import RefCocoGroundingDataset",
        "from flmm.engine import load_config, load_weights, run_test, run_training",
        "from flmm.engine.sharing import load_pretrained, save_pretrained",
        "from flmm.engine.exporting import export_checkpoint",
        "from flmm.explanation import explain",
        "from flmm.visual_cot import VisualCot, VisualCotSettings",
        "import flmm.vlms.qwen as qwen; qwen.FrozenQwen",
    ],
)
def test_what_scripts_imported(code):
    exec(code, {})


def test_what_never_was_is_still_missing():
    for name in ("flmm.vlms.nothing", "flmm.nothing"):
        with pytest.raises(ModuleNotFoundError, match="nothing"):
            importlib.import_module(name)


@pytest.mark.parametrize("registry", REGISTERED, ids=lambda registry: registry.name)
def test_registered_names(registry):
    for name in REGISTERED[registry].split():
        assert registry.get(name) is not None, name


def test_a_config_with_every_key(tmp_path):
    (tmp_path / "old.py").write_text(CONFIG)
    config = load_config(tmp_path / "old.py")
    grounder = GroundingInferencer(config, device="cpu")
    assert type(grounder.model).__name__ == "FrozenQwenSAM"
    assert grounder(SCENE, ["the red triangle"]).masks.any()


def test_keys_of_checkpoints():
    with safe_open(TINY_HEAD / "model.safetensors", "pt") as file:
        keys = set(file.keys())
    assert keys == set(GroundingInferencer("tiny", device="cpu").model.state_dict())
    assert keys >= {
        "mask_head.encoder.0.0.convs.0.conv.weight",
        "mask_head.encoder.0.0.convs.0.gn.bias",
        "mask_head.decoder.0.upsample.interp_upsample.1.conv.weight",
        "mask_head.conv_seg.weight",
        "text_proj.weight",
        "text_layer_weights",
        "keyword_selector.linear.weight",
        "sam.sam.mask_decoder.mask_tokens.weight",
        "sam.sam.prompt_encoder.mask_downscaling.0.weight",
    }


def test_a_head_that_was_shared_before(tmp_path):
    """Its settings are read as they were, and its masks are those of 0.3.0."""
    shutil.copy(TINY_HEAD / "model.safetensors", tmp_path)
    shutil.copy(HEAD, tmp_path / "config.json")
    record = json.loads(HEAD.read_text())
    assert record["flmm_version"] == "0.3.0"
    config = load_pretrained(tmp_path)
    for name, value in record["model"]["mask_head"].items():
        assert config.model.mask_head[name] == value
    result = GroundingInferencer.from_pretrained(tmp_path, device="cpu")(SCENE, list(MASKS))
    for mask, counts in zip(result.masks, MASKS.values()):
        wanted = decode_mask({"size": [279, 472], "counts": counts})
        assert np.sum(mask & wanted) / np.sum(mask | wanted) > 0.99
