"""Likeness of drawn pictures to a subject, and fidelity to their prompts:
the measures of DreamBooth and DiffuseKronA."""

from .measures import Judge, Scores, evaluate

__all__ = ["Judge", "Scores", "evaluate"]
