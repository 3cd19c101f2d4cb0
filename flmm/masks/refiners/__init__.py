"""Refiners: a coarse mask becomes a sharp one."""
