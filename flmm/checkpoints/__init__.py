"""Trained weights on disk: whole files, whose content is named, and which of several wins."""
