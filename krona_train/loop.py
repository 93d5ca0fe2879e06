"""The trainer: read `fit` to know what a training does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from PIL.Image import Image

from krona_ops import Adapter, LayerName, select
from krona_ops.live.attach import every
from krona_ops.live.reach import Reach
from krona_ops.targets.rules import describe_adjustments

from .adapters.layers import Layer, Switch, patch_with
from .adapters.rates import jump, learning_rates, require_movement
from .adapters.start import Start
from .adapters.trainee import Trainee
from .backbone.protocol import Backbone
from .batches.examples import Example, Item
from .batches.fingerprint import fingerprint
from .batches.samples import Samples, as_items, prior_items
from .config import TrainConfig
from .monitor.look import Look
from .monitor.validation import keep_out
from .processes.together import OneProcess, Runtime
from .run.events import Ended, Noted, Saved, Sink, Started
from .run.requests import Ask
from .run.state import AS_THEN, TrainState
from .step.gradients import Batches, Blocks, backward_that_fits
from .step.plan import Plan
from .step.progress import Progress
from .step.readings import Readings
from .step.usage import Usage


def fit(
    backbone: Backbone,
    data: Sequence[Item | Example],
    config: TrainConfig,
    sink: Sink = lambda event: None,
    resume: TrainState | None = None,
    *,
    class_data: Sequence[Item | Example] = (),
    preview: Callable[[], Sequence[Image]] | None = None,
    runtime: Runtime | None = None,
    asked: Callable[[], Ask] = lambda: Ask.NOTHING,
    late: bool | None = None,
    start: Start | None = None,
    notes: tuple[str, ...] = (),
) -> Adapter:
    """Train an adapter and return it; the backbone is left as it was found, whatever happens.

    Args:
        data: The encoded pictures; each is seen once per epoch, in a new order each time.
        sink: Gets every event. An exception that it raises (an interrupt) stops the training like any other; the
            factors as they stood after the last whole step are in the `Ended` event that follows.
        resume: Go on from here: the result is, bit for bit, that of a training that never stopped. A state after the last step is the result.
        class_data: Encoded pictures of the subject's class, for prior preservation with pictures.
        preview: Draws pictures with the adapter as it stands.
        runtime: The processes that train together; each calls ``fit`` with the same arguments.
        asked: What the training is asked, looked up before each step; the largest that one of the processes is asked counts.
            Whoever obeys has it forgotten: a saved state and adapter come as `Saved`, a finished training ends as any other.
        late: Whether a step is told while the next one is computed (`Readings`); by default on devices that compute beside Python. Does nothing
            where the optimizer cannot wait with its own steps.
        start: Begin at this adapter; the result is that adapter and what was learnt. A training that goes on has the same.
        notes: What the user should read first.

    Raises:
        DataError: There are no examples, or none of the class where the prior needs them.
        CoverageError: No layer of the backbone is a target.
        ConfigError: The state to go on from belongs to other settings, another base model, other pictures or another start; or
            nothing would be trained, because every rate is zero.
        NonFiniteError: The loss or its gradient became NaN or infinite; the factors are those from before.
        OutOfMemoryError: A step does not fit even in the smallest way.
        KeyboardInterrupt: It was asked to stop.
    """
    runtime = runtime or OneProcess()
    everything = as_items(data)
    classes = prior_items(config, everything, class_data)
    items, held_out = keep_out(everything, config)
    targets = select(backbone.weights(), config.adapter.targets)
    batches = Batches(
        Samples(items, config, runtime.number, runtime.count),
        Samples(classes, config, runtime.number, runtime.count, "class order") if classes else None,
    )
    begun = start.adapter.layers if start is not None else {}
    rates = learning_rates(backbone, targets, config)
    require_movement(rates, config, begun)
    with backbone.ready():
        trainee = Trainee(targets, rates, config, backbone.device, begun)
        progress = Progress(Plan(config.memory.checkpointing))
        base, seen = backbone.fingerprint(), fingerprint((*everything, *classes))
        began = start.fingerprint if start is not None else ""

        def state() -> TrainState:
            tensors, numbers = trainee.capture()
            before = resume.numbers.get(AS_THEN, []) if resume is not None else []
            told = {**numbers, **progress.numbers(), "processes": runtime.count, "start": began, AS_THEN: before}
            return TrainState(progress.done, tensors, told, config, base, seen)

        if resume is not None:
            resume.require_same(config, base, seen, runtime.count, began)
            trainee.restore(resume.tensors, resume.numbers)
            progress.restore(resume)
        count = sum(p.numel() for p in trainee.parameters)
        notes = (*notes, *(start.notes if start is not None else ()), *describe_adjustments(targets))
        sink(Started(config.steps, progress.done, len(targets), count, notes))
        if resume is not None and (change := jump(resume.step, resume.config, config)):
            sink(Noted(progress.done, change))
        late = trainee.can_hold_still and (backbone.device.type != "cpu" if late is None else late)
        readings = Readings(sink, progress, config.steps, late=late, checks_gradient=not trainee.scaler.is_enabled())
        reach = Reach()
        preview = None if preview is None else reach.counted(preview, "previews do")
        backward = reach.counted(backward_that_fits, "training does")
        look = Look(backbone, trainee, held_out, config, preview, runtime, sink, readings.catch_up)
        usage = Usage(backbone.device)
        try:
            with attached(backbone, trainee.layers, trainee.switch, reach), Blocks(backbone, config.memory) as blocks, readings:
                while look(progress) and progress.done < config.steps:
                    ask = runtime.largest(asked())
                    if ask != Ask.NOTHING:
                        readings.catch_up()
                    if ask == Ask.STOP:
                        raise KeyboardInterrupt(f"Asked to stop after step {progress.done}.")
                    if ask == Ask.FINISH and progress.done:
                        break
                    if ask == Ask.SAVE and progress.done:
                        sink(Saved(state(), trainee.result()))
                    usage.begin()
                    loss = backward(backbone, blocks, trainee, batches, config, progress, runtime, sink)
                    loss = runtime.mean(loss)
                    runtime.average_gradients(trainee.parameters)
                    grad_norm = trainee.clip()
                    readings.judge(loss, grad_norm)
                    rate = trainee.step(progress.done, readings.broken)
                    readings.add(loss, grad_norm, rate, usage.bytes())
                    if config.save_every and progress.done % config.save_every == 0 and progress.done < config.steps:
                        readings.catch_up()
                        sink(Saved(state()))
        except BaseException as error:
            sink(Ended(progress.done, config.steps, trainee.result(), state(), error))
            raise
        adapter = trainee.result()
        sink(Ended(progress.done, config.steps, adapter, state()))
        return adapter


@contextmanager
def attached(
    backbone: Backbone, layers: Mapping[LayerName, Layer], switch: Switch | None = None, reach: Reach | None = None
) -> Iterator[None]:
    """The backbone computes with the layers' updates inside the block, and without them after it; ``reach`` counts which of them it uses."""
    plain = backbone.is_plain
    patches = {name: patch_with(layer, backbone.module(name), name, switch, plain) for name, layer in layers.items()}

    def again() -> None:
        for patch in patches.values():
            patch.offer_weight()

    if reach is not None:
        reach.attach(backbone.module, patches)
    with every(patches.values()), backbone.on_load(again):
        yield
