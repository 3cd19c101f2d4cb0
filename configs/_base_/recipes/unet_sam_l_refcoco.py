"""F-LMM's U-Net head and SAM ViT-L behind a frozen Qwen-VL, trained on RefCOCO.

A leaf names its ``reader``, a hub id or a folder. ``flmm.training.load_config`` hands it to the
model and to every image processor that names none, so that one key chooses another:
``--cfg-options reader=checkpoints/Qwen2.5-VL-3B-Instruct``.
"""

_base_ = [
    "../models/flmm_qwen_sam.py",
    "../datasets/refcoco.py",
    "../datasets/png.py",
    "../schedules/adamw_8e.py",
    "../default_runtime.py",
]
