r"""The head for every reader (``SharedHead``), trained once with the embedded reader, without SAM.

Data:     python tools/make_shapes.py data/shapes --images 4000 --seed 0
Train:    python tools/train.py configs/tiny/tiny_ranked_shapes.py
Again:    python tools/train.py configs/tiny/tiny_ranked_shapes.py --work-dir work_dirs/again \
            --load-from work_dirs/tiny_ranked_shapes/iter_700.pth --cfg-options randomness.seed=1
Ship:     python tools/export.py configs/tiny/tiny_ranked_shapes.py work_dirs/again/iter_700.pth \
            flmm/assets/shared_head --overwrite --cfg-options randomness.seed=1
          rm flmm/assets/shared_head/README.md
Hardware: one CPU core, about 6 minutes each time
Expected: see docs/tiny_model.md, "One head for every reader"
"""

_base_ = ["./tiny_unet_sam_shapes.py", "../_base_/heads/tiny.json"]

weights = None
small = dict(base_channels=16, num_stages=3, strides=(1, 1, 1), enc_num_convs=(2, 2, 2))
small |= dict(dec_num_convs=(2, 2), downsamples=(True, True), enc_dilations=(1, 1, 1))
small |= dict(dec_dilations=(1, 1), upsample_input=32, normalize_input=True, log_input=True)
model = dict(
    model=dict(token_merge="last"),
    mask_head=dict(_delete_=True, type="RankedHead", choice={{_base_.choice}}, head=small),
    sam=None,
    keyword_selector=None,
)
max_iters = 700
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
warm_up = dict(type="LinearLR", start_factor=1e-5, by_epoch=False, begin=0, end=30)
cosine = dict(type="CosineAnnealingLR", eta_min=0.0, by_epoch=False, begin=30, end=max_iters)
param_scheduler = [warm_up, cosine]
optim_wrapper = dict(optimizer=dict(lr=2e-3))
