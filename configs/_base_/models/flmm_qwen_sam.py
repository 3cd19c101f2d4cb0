"""A frozen Qwen-VL, F-LMM's mask head, and SAM ViT-L as the refiner; a leaf names its ``reader``.

The number of attention maps (layers x heads) comes from the reader's own config.
"""

model = dict(
    type="FrozenQwenSAM",
    model=dict(type="FrozenQwen", dtype="bfloat16", attn_implementation="sdpa"),
    mask_head=dict(
        type="UNetHead",
        normalize_input=True,
        upsample_input=64,
        base_channels=64,
        num_stages=4,
        strides=(1, 1, 1, 1),
        enc_num_convs=(2, 2, 2, 2),
        dec_num_convs=(2, 2, 2),
        downsamples=(True, True, True),
        enc_dilations=(1, 1, 1, 1),
        dec_dilations=(1, 1, 1),
        norm_cfg=dict(type="GN", num_groups=1),
        upsample_cfg=dict(type="InterpConv"),
    ),
    sam=dict(
        type="SAMRefiner",
        model_name="vit_l",
        checkpoint="checkpoints/sam_vit_l_0b3195.pth",
        use_text=True,
        use_mask=True,
        use_box=True,
        multimask_output=False,
    ),
    loss_mask=dict(type="mmdet.CrossEntropyLoss", use_sigmoid=True, reduction="mean"),
    loss_dice=dict(
        type="mmdet.DiceLoss",
        use_sigmoid=True,
        activate=True,
        reduction="mean",
        naive_dice=True,
        eps=1.0,
    ),
)
# Which words of a conversation are pointed at, see docs/conversation.md.
selectors = ("brackets", "reader")
