"""Settings of the real SAM 2.1 and SAM-HQ classes at toy size, for random weights."""

_PROMPTS = {"hidden_size": 32, "image_size": 128, "patch_size": 16, "mask_input_channels": 8}
_DECODER = {
    "hidden_size": 32,
    "mlp_dim": 64,
    "num_attention_heads": 4,
    "iou_head_hidden_dim": 32,
}
SAM2 = {
    "vision_config": {
        "backbone_config": {
            "model_type": "sam2_hiera_det_model",
            "hidden_size": 8,
            "initializer_range": 0.1,
            "image_size": [128, 128],
            "blocks_per_stage": [1, 1, 2, 1],
            "embed_dim_per_stage": [8, 16, 32, 64],
            "num_attention_heads_per_stage": [1, 1, 2, 2],
            "window_size_per_stage": [4, 2, 2, 2],
            "global_attention_blocks": [3],
            "window_positional_embedding_background_size": [2, 2],
        },
        "initializer_range": 0.1,
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        "fpn_hidden_size": 32,
    },
    "prompt_encoder_config": _PROMPTS,
    "mask_decoder_config": _DECODER,
}
SAM_HQ = {
    "vision_config": {
        "hidden_size": 32,
        "initializer_range": 0.1,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 128,
        "patch_size": 16,
        "window_size": 4,
        "global_attn_indexes": [1],
        "output_channels": 32,
        "num_pos_feats": 16,
        "mlp_dim": 64,
    },
    "prompt_encoder_config": _PROMPTS,
    "mask_decoder_config": {**_DECODER, "vit_dim": 32},
}
