"""Where a training is."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from ..run.state import TrainState
from .plan import Plan


@dataclass
class Best:
    """The best validation so far, and how long ago it was."""

    loss: float | None = None
    misses: int = 0

    def improves(self, loss: float) -> bool:
        """Take note of a loss; whether it is the lowest so far."""
        if self.loss is None or loss < self.loss:
            self.loss, self.misses = loss, 0
            return True
        self.misses += 1
        return False


@dataclass
class Progress:
    """What a loop remembers from step to step."""

    plan: Plan
    """How a step is computed."""
    done: int = 0
    """Optimizer steps."""
    looked: int = -1
    """The step after which the last look was; looking at one step twice would count it twice."""
    best: Best = field(default_factory=Best)

    def numbers(self) -> dict[str, object]:
        """What a saved state keeps of it, as JSON holds it."""
        return {"looked": self.looked, "best": dataclasses.asdict(self.best), "plan": dataclasses.asdict(self.plan)}

    def restore(self, state: TrainState) -> None:
        """Stand where the state was saved; a plan that was made smaller stays so unless the settings ask for less
        yet."""
        self.done, self.looked = state.step, state.numbers["looked"]
        self.best = Best(**state.numbers["best"])
        if self.plan.checkpointing == state.config.memory.checkpointing:
            self.plan = Plan(**state.numbers["plan"])
