r"""Qwen3-VL-32B, frozen; U-Net mask head and SAM ViT-L trained on RefCOCO.

Train:    python tools/train.py configs/qwen3_vl/qwen3_vl_32b_unet_sam_l_refcoco.py
Evaluate: python tools/eval_refcoco.py \
            configs/qwen3_vl/qwen3_vl_32b_unet_sam_l_refcoco.py CHECKPOINT
Hardware: one process spreads the reader (67 GB in bfloat16) over its GPUs by device_map
          and takes the recipe's 8 images per step; memory and time not measured yet
          (GPUs that hold it whole: torchrun, --cfg-options model.model.device_map=None
          train_dataloader.batch_size=1)
Expected: not measured yet
"""

_base_ = ["../_base_/recipes/unet_sam_l_refcoco.py"]

reader = "Qwen/Qwen3-VL-32B-Instruct"
model = dict(model=dict(device_map="auto"))
