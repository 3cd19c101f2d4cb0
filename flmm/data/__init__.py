"""Data sets: records in RefCOCO's file layout become grounding samples.

The package itself imports nothing: :mod:`flmm.data.refcoco` needs mmdet, which costs seconds,
and the synthetic scenes in :mod:`flmm.toy.shapes` are drawn without it.
"""
