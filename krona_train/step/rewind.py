"""Back to where the last whole step ended, for a step that does not end."""

from __future__ import annotations

from ..adapters.bank import Bank
from ..objectives.protocol import Captured, Objective, put_back


class Rewind:
    """What the steps that may still fail began at: a step counts whole, or not at all.

    A step of several turns has moved one adapter by the time that a later turn is interrupted or finds a loss that is
    not finite, and objectives note what they see as they see it. Resumed from there, the training would be another one.
    With a single turn the adapter moves at the very end, so that only the objective has something to put back.

    Args:
        late: Whether a step's numbers are read during the next one (`krona_train.step.readings`), so that two steps may
            have to be taken back.
    """

    def __init__(self, bank: Bank, objective: Objective, *, late: bool) -> None:
        self._bank, self._objective = bank, objective
        self._kept = 2 if late else 1
        self._before: dict[int, tuple[Captured | None, Captured]] = {}

    def begin(self, done: int) -> None:
        """Note where the step after the first ``done`` ones begins: copies, on the device where the adapters are."""
        adapters = self._bank.capture(stays=True) if len(self._objective.turns) > 1 else None
        self._before[done] = adapters, self._objective.capture()
        for older in [step for step in self._before if step <= done - self._kept]:
            del self._before[older]

    def to(self, done: int) -> None:
        """Stand where ``done`` steps ended, bit for bit; does nothing where no step after them has begun."""
        if done not in self._before:
            return
        adapters, objective = self._before[done]
        if adapters is not None:
            self._bank.restore(*adapters)
        put_back(self._objective, objective)
