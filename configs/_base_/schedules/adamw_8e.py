"""F-LMM's recipe: 8 epochs, AdamW 1e-4, 3 % warm-up, cosine to 0, bfloat16.

Lengths are in epochs; a run counts its own iterations per epoch, whatever the batch size.

Source: F-LMM configs/llava/frozen_llava_1_5_vicuna_7b_unet_sam_l_refcoco_png.py.
"""

max_epochs = 8
warmup_epochs = 0.03 * max_epochs

# bfloat16 on a GPU; without one, flmm's runner uses bfloat16 autocast on the CPU.
optim_wrapper = dict(
    type="AmpOptimWrapper",
    dtype="bfloat16",
    loss_scale="dynamic",
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.01),
    clip_grad=dict(max_norm=1, error_if_nonfinite=False),
)
param_scheduler = [
    dict(
        type="LinearLR",
        start_factor=1e-5,
        by_epoch=True,
        begin=0,
        end=warmup_epochs,
        convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingLR",
        eta_min=0.0,
        by_epoch=True,
        begin=warmup_epochs,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
