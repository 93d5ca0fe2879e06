"""The names of what a run's folder keeps. Nobody else spells them; locks and requests, which come and go, have theirs
in claim.py and requests.py."""

SETTINGS = "run.yaml"
"""The job: all that the training is made of."""
METRICS = "metrics.jsonl"
"""What happened, a row each."""
ENCODED = "encoded.safetensors"
"""Pictures and captions as the model is trained on them, for a training in a process of its own."""
START = "start.safetensors"
"""The adapter that the training began at: the layers that are trained, in the form that is trained."""
PREVIEWS = "previews"
"""A folder of pictures."""
LOSS_CURVE, PREVIEW_SHEET = "loss.png", "previews.png"
RESULT = "adapter.safetensors"
BEST = "adapter-best.safetensors"
"""The adapter at the lowest validation loss."""
STATE_PREFIX, STOPPED_PREFIX, SUFFIX = "state-", "adapter-stopped-at-", ".safetensors"
STATES, STOPPED = f"{STATE_PREFIX}*{SUFFIX}", f"{STOPPED_PREFIX}*{SUFFIX}"
KEPT = (STATES, "adapter*.safetensors")
"""Files of a folder in which no other training begins."""


def state_at(step: int) -> str:
    """What the training goes on from after this step."""
    return f"{STATE_PREFIX}{step:08}{SUFFIX}"


def adapter_at(step: int, name: str = "") -> str:
    """The adapter as it was after this step, kept beside its state; of one that an objective trains besides, with its
    name."""
    return f"adapter-step-{step:06}{f'-{name}' if name else ''}{SUFFIX}"


def other_adapter(name: str) -> str:
    """An adapter that an objective trained besides the result, as it was at the end."""
    return f"adapter-of-{name}{SUFFIX}"


def stopped_at(step: int) -> str:
    """The adapter of a training that was ended after this step."""
    return f"{STOPPED_PREFIX}{step:06}{SUFFIX}"


def picture_names(step: int, count: int) -> list[str]:
    """A step's previews, in their folder."""
    return [f"step-{step:06}-{number}.png" for number in range(1, count + 1)]
