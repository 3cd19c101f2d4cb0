"""Refiners: a coarse mask becomes a sharp one; what any of them is stands in ``base``."""
