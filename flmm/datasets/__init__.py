"""Data sets: records in RefCOCO's file layout become grounding samples.

The package itself imports nothing: :mod:`flmm.datasets.refcoco` needs mmdet, which costs seconds,
and the synthetic scenes in :mod:`flmm.datasets.shapes` are drawn without it.
"""
