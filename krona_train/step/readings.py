"""The numbers of the steps, read without making a device wait for them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from krona_ops.errors import NonFiniteError

from ..run.events import Sink, Stepped
from .progress import Progress


@dataclass(frozen=True)
class _Reading:
    """One step's loss and gradient norm, on their way to the computer's memory."""

    step: int
    numbers: Tensor
    arrived: torch.Event | None
    learning_rate: float
    memory: int
    apart: tuple[str, ...] = ()
    """The other adapters whose losses follow among the numbers."""

    def get(self) -> tuple[float, float, dict[str, float]]:
        """Loss, gradient norm, and the losses of other adapters, waiting for them if need be."""
        if self.arrived is not None:
            self.arrived.synchronize()
        loss, grad_norm, *others = self.numbers.tolist()
        return loss, grad_norm, dict(zip(self.apart, others, strict=True))


class Readings:
    """Tells about each step; where the device computes beside Python, while the next step is on its way.

    Reading a number makes Python wait until the device has computed it, and the device then waits for Python's next
    commands. Read one step late, both go on. The device has to guard the factors itself in the meantime: once a loss or
    gradient is not finite, `broken` is 1, and no optimizer step that is given it moves anything.

    Args:
        late: Whether steps are told one step late.
        checks_gradient: Whether a gradient that is not finite ends the training; loss scaling lives with them.
    """

    def __init__(self, sink: Sink, progress: Progress, steps: int, *, late: bool, checks_gradient: bool) -> None:
        self._sink, self._progress, self._steps = sink, progress, steps
        self.late, self._checks_gradient = late, checks_gradient
        self._began = time.monotonic()
        self._waiting: _Reading | None = None
        self.broken: Tensor | None = None
        """``()``, 1 from the first step on whose numbers are not finite; on the device, where steps are told late."""

    def __enter__(self) -> Readings:
        return self

    def __exit__(self, *exception: object) -> None:
        self.catch_up()  # however the steps end, the last one is told

    def judge(self, loss: Tensor, grad_norm: Tensor) -> None:
        """Before the factors move: see that the numbers are finite, or have the device see to it.

        Raises:
            NonFiniteError: They are not, and are not told late.
        """
        if not self.late:
            self._require_finite(self._progress.done + 1, loss.item(), grad_norm.item())
            return
        judged = torch.stack([loss, grad_norm]) if self._checks_gradient else loss
        bad = (~torch.isfinite(judged)).any().to(torch.float32)
        self.broken = bad if self.broken is None else torch.maximum(self.broken, bad)

    def add(
        self,
        step: int,
        loss: Tensor,
        grad_norm: Tensor,
        learning_rate: float,
        memory: int,
        apart: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        """After the factors have moved: the step of that number is done, 1 for the first.

        Args:
            apart: The losses of other adapters that have moved too, by name.

        Raises:
            NonFiniteError: The numbers of the step before were not finite.
        """
        before = self._waiting
        numbers = torch.stack([loss.detach(), grad_norm, *(each.detach() for each in apart.values())])
        self._waiting = _Reading(step, *_on_the_way(numbers), learning_rate, memory, tuple(apart))
        if before is not None:
            self._tell(before)
        if not self.late:
            self.catch_up()

    def catch_up(self) -> None:
        """Tell what has not been told yet.

        Raises:
            NonFiniteError: The numbers of the last step were not finite.
        """
        if (reading := self._waiting) is not None:
            self._waiting = None
            self._tell(reading)

    def _tell(self, reading: _Reading) -> None:
        loss, grad_norm, apart = reading.get()
        if self.late:
            self._require_finite(reading.step, loss, grad_norm)
        seconds = time.monotonic() - self._began
        rate, memory = reading.learning_rate, reading.memory
        self._sink(Stepped(reading.step, self._steps, loss, grad_norm, rate, seconds, memory, apart))

    def _require_finite(self, step: int, loss: float, grad_norm: float) -> None:
        values = {"loss": loss, "gradient": grad_norm} if self._checks_gradient else {"loss": loss}
        for name, value in values.items():
            if not abs(value) < float("inf"):
                # Neither this step nor one after it has moved the factors.
                self._waiting, self._progress.done = None, step - 1
                raise NonFiniteError(
                    f"The {name} became {value} in step {step}.",
                    found=value,
                    expected="a finite number",
                    remedy=f"The factors of step {step - 1} are kept. Lower the learning rate, or let the model "
                    "compute in bf16 or fp32.",
                )


def _on_the_way(numbers: Tensor) -> tuple[Tensor, torch.Event | None]:
    """A copy in the computer's memory, and the event after which it is there; none where it is there at once."""
    if numbers.device.type == "cpu":
        return numbers, None
    copy = numbers.to("cpu", non_blocking=True)
    arrived = torch.Event(numbers.device)
    arrived.record()
    return copy, arrived
