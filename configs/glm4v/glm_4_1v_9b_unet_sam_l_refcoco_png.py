r"""GLM-4.1V-9B, frozen; U-Net mask head and SAM ViT-L trained on PNG and RefCOCO/+/g.

Train:    torchrun --nproc_per_node=8 tools/train.py --launcher pytorch \
            configs/glm4v/glm_4_1v_9b_unet_sam_l_refcoco_png.py \
            --cfg-options train_dataloader.batch_size=1
Evaluate: python tools/eval_refcoco.py \
            configs/glm4v/glm_4_1v_9b_unet_sam_l_refcoco_png.py CHECKPOINT
Hardware: 8 GPUs, one image each, as F-LMM's recipe; one GPU (python tools/train.py CONFIG)
          takes the same 8 images a step; memory and time not measured yet
Expected: not measured yet
"""

_base_ = ["../_base_/recipes/any_reader_unet_sam_l_refcoco_png.py"]

reader = "zai-org/GLM-4.1V-9B-Thinking"
