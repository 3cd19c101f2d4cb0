"""Data sets become grounding samples; :mod:`flmm.data.refcoco` needs mmdet, which costs seconds."""
