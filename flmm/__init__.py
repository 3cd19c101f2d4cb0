"""flmm: a frozen vision-language model points at pixels."""

__version__ = "0.1.0"
