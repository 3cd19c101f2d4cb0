r"""The tiny reader and the tiny SAM as they are, joined by a rule: nothing is trained.

Data:     python tools/make_shapes.py data/shapes_eval --images 4000 --seed 7
Test:     python tools/eval_refcoco.py configs/tiny/tiny_rule_sam_shapes.py \
            --cfg-options data_root=data/shapes_eval/
Hardware: two CPU cores
Expected: see docs/without_training.md
"""

_base_ = ["./tiny_unet_sam_shapes.py"]

# Chosen without labels; model.mask_head.choice=FILE takes those of tools/rank_heads.py.
model = dict(
    model=dict(token_merge="last"),
    mask_head=dict(_delete_=True, type="RuleHead", choice="tiny"),
    sam=dict(use_text=False, use_mask=False),
    keyword_selector=None,
)
selectors = ("brackets", "reader")
weights = "published"
