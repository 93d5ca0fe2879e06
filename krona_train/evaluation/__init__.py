"""Does a subject look like itself, and do pictures show what was asked for? The measures of DreamBooth and DiffuseKronA."""

from .measures import Judge, Scores, evaluate

__all__ = ["Judge", "Scores", "evaluate"]
