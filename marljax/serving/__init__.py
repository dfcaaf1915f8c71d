"""Trained agents outside the learning loop."""

from marljax.serving.trained import TrainedPolicy, trained_policies

__all__ = ["TrainedPolicy", "trained_policies"]
