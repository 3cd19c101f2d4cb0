"""Trained heads as folders or hub repositories: saved, described, loaded."""
