r"""PaliGemma2-3B-448, frozen; U-Net mask head and SAM ViT-L trained on RefCOCO.

Train:    torchrun --nproc_per_node=8 tools/train.py --launcher pytorch \
            configs/paligemma/paligemma2_3b_448_unet_sam_l_refcoco.py \
            --cfg-options train_dataloader.batch_size=1
Evaluate: python tools/eval_refcoco.py \
            configs/paligemma/paligemma2_3b_448_unet_sam_l_refcoco.py CHECKPOINT
Hardware: 8 GPUs, one image each, as F-LMM's recipe; one GPU (python tools/train.py CONFIG)
          takes the same 8 images a step; memory and time not measured yet
Expected: not measured yet
"""

_base_ = ["../_base_/recipes/any_reader_unet_sam_l_refcoco.py"]

reader = "google/paligemma2-3b-pt-448"
