"""The trainer: read `fit` to know what a training does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

from torch import Tensor

from krona_ops import Adapter
from krona_ops.live.reach import Reach
from krona_ops.targets.rules import describe_adjustments

from .adapters.bank import Bank, Chosen, choose
from .adapters.rates import jump
from .adapters.start import Start
from .adapters.targets import missing_parts
from .adapters.trainee import Recipe
from .backbone.protocol import Backbone
from .batches.examples import Example, Group, Item
from .batches.fingerprint import fingerprint
from .batches.samples import Samples, as_items, taking
from .config import TrainConfig
from .monitor.look import Draw, Look
from .monitor.validation import keep_out
from .objectives.kinds import objective_of
from .objectives.needs import require_needs
from .objectives.preservation import prior_items
from .objectives.protocol import Objective, Source
from .processes.together import OneProcess, Runtime
from .run.events import Ended, Noted, Saved, Sink, Started
from .run.metadata import said_of
from .run.requests import Ask
from .run.state import AS_THEN, TrainState
from .settings.groups import MAIN, SparseConfig
from .step.gradients import Blocks, backward_that_fits
from .step.plan import Plan
from .step.progress import Progress
from .step.readings import Readings
from .step.rewind import Rewind
from .step.scene import Scene
from .step.usage import Usage


def fit(
    backbone: Backbone,
    data: Sequence[Item | Group | Example],
    config: TrainConfig,
    sink: Sink = lambda event: None,
    resume: TrainState | None = None,
    *,
    class_data: Sequence[Item | Group | Example] = (),
    preview: Draw | None = None,
    runtime: Runtime | None = None,
    asked: Callable[[], Ask] = lambda: Ask.NOTHING,
    late: bool | None = None,
    start: Start | None = None,
    notes: tuple[str, ...] = (),
) -> Adapter:
    """Train an adapter and return it; the backbone is left as it was found, whatever happens.

    Other adapters that the objective trains besides are in the events, by name.

    Args:
        data: The encoded pictures, or prompts alone for objectives that need no pictures; each is seen once per epoch,
            in a new order each time, or as often as its weight says.
        sink: Gets every event. An exception that it raises (an interrupt) stops the training like any other; the
            factors as they stood after the last whole step are in the `Ended` event that follows.
        resume: Go on from here: the result is, bit for bit, that of a training that never stopped. A state after the
            last step is the result.
        class_data: Encoded pictures of the subject's class, for prior preservation with pictures.
        preview: Draws pictures with the adapter as it stands, which it may also ask for.
        runtime: The processes that train together; each calls ``fit`` with the same arguments.
        asked: What the training is asked to do, looked up before each step; the largest that one of the processes is
            asked counts. Whoever obeys has it forgotten: a saved state and adapter come as `Saved`, a finished training
            ends as any other.
        late: Whether a step's numbers are read while the next one is computed (`Readings`); by default on devices that
            compute beside Python. Does nothing where the optimizer cannot wait with its own steps.
        start: Begin at this adapter; the result is that adapter and what was learnt. A training that goes on is given
            the same one.
        notes: What the user should read first.

    Raises:
        DataError: There are no examples, or none of the class where the prior needs them.
        CoverageError: No layer of the backbone is a target.
        ConfigError: The state to go on from belongs to other settings, another base model, other pictures or another
            start; or nothing would be trained, because every rate is zero; or parts are wanted of what has none.
        NonFiniteError: The loss or its gradient became NaN or infinite; the factors are those from before.
        OutOfMemoryError: A step does not fit even in the smallest way.
        KeyboardInterrupt: It was asked to stop.
    """
    runtime = runtime or OneProcess()
    objective = objective_of(config.objective, config.prior, config.adapter.sparse)
    everything = taking(as_items(data), objective.take)
    require_needs(objective, backbone, everything)
    classes = prior_items(config.prior, everything, class_data)
    items, held_out = keep_out(everything, config)
    samples: dict[Source, Samples] = {"data": Samples(items, config, runtime.number, runtime.count)}
    if classes:
        samples["class data"] = Samples(classes, config, runtime.number, runtime.count, "class order")
    chosen = choose_all(backbone, objective, config, start)
    with backbone.ready():
        bank = Bank(backbone, chosen)
        scene = Scene(backbone, bank, objective, samples, config, runtime, sink)
        progress = Progress(Plan(config.memory.checkpointing))
        base, seen = backbone.fingerprint(), fingerprint((*everything, *classes))
        began = start.fingerprint if start is not None else ""

        def state() -> TrainState:
            tensors, numbers = bank.capture()
            own_tensors, own_numbers = objective.capture()
            before = resume.numbers.get(AS_THEN, []) if resume is not None else []
            numbers |= {**progress.numbers(), "processes": runtime.count, "start": began, AS_THEN: before}
            if own_tensors or own_numbers:
                tensors |= {f"{OBJECTIVE}.{key}": value.detach().cpu().clone() for key, value in own_tensors.items()}
                numbers[OBJECTIVE] = own_numbers
            return TrainState(progress.done, tensors, numbers, config, base, seen)

        if resume is not None:
            resume.require_same(config, base, seen, runtime.count, began)
            bank.restore(resume.tensors, resume.numbers)
            own = {k: v for k, v in resume.tensors.items() if k.startswith(f"{OBJECTIVE}.")}
            own_numbers = resume.numbers.get(OBJECTIVE, {})
            objective.restore({k.removeprefix(f"{OBJECTIVE}."): v for k, v in own.items()}, own_numbers)
            progress.restore(resume)
        targets = [target for each in chosen.values() for target in each.targets]
        begins = (*objective.begin(backbone), *(start.notes if start is not None else ()))
        absent = missing_parts(backbone, config.adapter)
        notes = (*notes, *begins, *absent, *describe_adjustments(tuple(targets)))
        sink(Started(config.steps, progress.done, len(targets), bank.parameters, notes, tuple(objective.others)))
        if resume is not None and (change := jump(resume.step, resume.config.steps, config.steps, config.optimizer)):
            sink(Noted(progress.done, change))
        late = bank.can_hold_still and (backbone.device.type != "cpu" if late is None else late)
        readings = Readings(sink, progress, config.steps, late=late, checks_gradient=not bank.main.scaler.is_enabled())
        reach = Reach()
        preview = None if preview is None else reach.counted(preview, "previews do")
        backward = reach.counted(backward_that_fits, "training does")
        look = Look(scene, held_out, preview, readings.catch_up)
        usage, rewind = Usage(backbone.device), Rewind(bank, objective, late=late)
        try:
            with ExitStack() as held:
                held.enter_context(bank.attached(reach))
                blocks = held.enter_context(Blocks(backbone, config.memory, bank.gates.pinned))
                held.enter_context(readings)
                goes_on = look(progress)
                while goes_on and progress.done < config.steps:
                    ask = runtime.largest(asked())
                    if ask != Ask.NOTHING:
                        readings.catch_up()
                    if ask == Ask.STOP:
                        raise KeyboardInterrupt(f"Asked to stop after step {progress.done}.")
                    if ask == Ask.FINISH and progress.done:
                        break
                    if ask == Ask.SAVE and progress.done:
                        sink(Saved(state(), bank.main.result(), bank.other_results()))
                    usage.begin()
                    rewind.begin(progress.done)
                    apart: dict[str, Tensor] = {}
                    for turn in objective.turns:
                        trainee = bank.trainees[turn.adapter]
                        with bank.moving(turn.adapter):
                            loss = runtime.mean(backward(scene, blocks, progress, turn))
                        runtime.average_gradients(trainee.parameters)
                        grad_norm = trainee.clip()
                        readings.judge(loss, grad_norm)
                        rate = trainee.step(progress.done, readings.broken)
                        if turn.adapter != MAIN:
                            apart[turn.adapter] = loss
                    progress.done += 1
                    readings.add(progress.done, loss, grad_norm, rate, usage.bytes(), apart)
                    if config.save_every and progress.done % config.save_every == 0 and progress.done < config.steps:
                        readings.catch_up()
                        sink(Saved(state()))
                    goes_on = look(progress)
        except BaseException as error:
            rewind.to(progress.done)  # a step that did not end leaves nothing behind
            sink(Ended(progress.done, config.steps, bank.main.result(), state(), error, bank.other_results()))
            raise
        adapter = bank.main.result()
        sink(Ended(progress.done, config.steps, adapter, state(), others=bank.other_results()))
        return adapter


OBJECTIVE = "objective"
"""What the objective remembers in a state: the name of its numbers, and the beginning of its tensors' names."""


def choose_all(
    backbone: Backbone, objective: Objective, config: TrainConfig, start: Start | None = None
) -> dict[str, Chosen]:
    """What is trained: `MAIN`, and the adapters that the objective needs besides.

    Raises:
        ConfigError, CoverageError: See `krona_train.adapters.bank.choose`.
    """
    is_scaled = config.memory.compute == "fp16"
    how = config.adapter, config.optimizer, config.ema, config.steps, config.seed
    main = Recipe(*how, beside=objective.beside, metadata=said_of(config.objective), is_scaled=is_scaled)
    chosen = {MAIN: choose(backbone, main, start)}
    whole = replace(config.adapter, sparse=SparseConfig())
    for number, (name, other) in enumerate(objective.others.items(), 1):
        how = other.adapter or whole, other.optimizer, other.ema, config.steps, config.seed
        recipe = Recipe(*how, number, is_scaled=is_scaled)
        chosen[name] = choose(backbone, recipe)
    return chosen
