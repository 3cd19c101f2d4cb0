r"""Qwen3-VL-4B (frozen), U-Net mask head, SAM ViT-L, trained on RefCOCO.

Train:    torchrun --nproc_per_node=8 tools/train.py --launcher pytorch \
            configs/qwen3_vl/qwen3_vl_4b_unet_sam_l_refcoco.py
Test:     python tools/test.py configs/qwen3_vl/qwen3_vl_4b_unet_sam_l_refcoco.py CHECKPOINT
Hardware: 8 GPUs, one image each, as F-LMM's recipe; memory and time not measured yet
Expected: not measured yet
"""

_base_ = [
    "../_base_/models/flmm_qwen_sam.py",
    "../_base_/datasets/refcoco.py",
    "../_base_/schedules/adamw_8e.py",
    "../_base_/default_runtime.py",
]

name_or_path = "Qwen/Qwen3-VL-4B-Instruct"
model = dict(model=dict(name_or_path=name_or_path))

dataset = dict(image_processor=dict(processor=name_or_path))
train_dataloader = dict(dataset=dataset)
val_dataloader = dict(dataset=dataset)
test_dataloader = dict(dataset=dataset)
