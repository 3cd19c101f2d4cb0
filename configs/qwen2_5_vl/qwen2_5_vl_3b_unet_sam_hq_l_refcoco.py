r"""Qwen2.5-VL-3B, frozen; U-Net mask head and SAM-HQ ViT-L trained on RefCOCO.

Train:    torchrun --nproc_per_node=8 tools/train.py --launcher pytorch \
            configs/qwen2_5_vl/qwen2_5_vl_3b_unet_sam_hq_l_refcoco.py \
            --cfg-options train_dataloader.batch_size=1
Evaluate: python tools/eval_refcoco.py \
            configs/qwen2_5_vl/qwen2_5_vl_3b_unet_sam_hq_l_refcoco.py CHECKPOINT
Hardware: 8 GPUs, one image each, as F-LMM's recipe; one GPU (python tools/train.py CONFIG)
          takes the same 8 images a step; memory and time not measured yet
Expected: not measured yet
"""

_base_ = ["../_base_/recipes/unet_sam_hq_l_refcoco.py"]

reader = "Qwen/Qwen2.5-VL-3B-Instruct"
