"""A reader of any family, ``RuleHead`` and SAM ViT-B, all as published: nothing is trained.

``flmm.without_training`` says which reader, refiner and heads (docs/without_training.md). The data
sets are there to be measured on.
"""

_base_ = ["../datasets/refcoco.py", "../datasets/png.py", "../default_runtime.py"]

model = dict(
    type="Grounder",
    model=dict(type="FrozenVLM", dtype="bfloat16", attn_implementation="sdpa", token_merge="last"),
    mask_head=dict(type="RuleHead"),
    sam=dict(
        type="SAMRefiner",
        model_name="vit_b",
        checkpoint="checkpoints/sam_vit_b_01ec64.pth",
        use_text=False,
        use_mask=False,
    ),
)
weights = "published"
selectors = ("brackets", "reader")
