"""Programs in processes of their own, to be killed or to race: forked from a server of the standard library that has
imported torch, which takes a core ten times as long as what they do.

The server is started once for all tests of a process, never computes, and has no threads, so that what it forks is as
a process that has just begun.
"""

import multiprocessing
import os

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["pytest", "torch.testing", "krona_train.backbone.toy", "krona_train.run.folder"])
KILLED = -9


class Forked:
    """A running program and what it says.

    Args:
        program: A function of a module that can be imported by its name; its first argument says something to this
            process, its second waits for a word from it.
    """

    def __init__(self, program, *arguments):
        self._end, theirs = FORKS.Pipe()
        self._process = FORKS.Process(target=program, args=(theirs.send, theirs.recv, *map(os.fspath, arguments)))
        self._process.start()
        theirs.close()  # so that its end is heard

    def hear(self):
        """What it says next; ``EOFError`` where it has ended."""
        return self._end.recv()

    def say(self, word):
        """Give it the word that it waits for."""
        self._end.send(word)

    def wait(self, seconds=None):
        """Its status, negative for a signal; None where it still runs after so long."""
        self._process.join(seconds)
        return self._process.exitcode

    def kill(self):
        """End it in the middle of whatever it does, as a power cut would; its status."""
        self._process.kill()
        return self.wait()


def train_toy(say, hear, folder):
    """The run of a toy that goes on from its newest state, and says each of its events."""
    from pathlib import Path

    from test_loop import examples
    from test_state import settings

    from krona_train import fit
    from krona_train.backbone.toy import ToyBackbone
    from krona_train.run.folder import Run
    from krona_train.run.state import TrainState, newest

    config, state = settings(steps=60, keep_states=2), newest(Path(folder))
    run = Run(Path(folder), config, {})

    def sink(event):
        say(type(event).__name__)
        run(event)

    fit(ToyBackbone(), examples(), config, sink, TrainState.load(state) if state else None)


def claim_and_train(say, hear, folder):
    """A new training of a folder, begun at a word; says that it has trained, or why not."""
    from pathlib import Path

    import torch
    from test_claim import train

    from krona_ops.errors import ConfigError

    torch.set_num_threads(1)
    say("ready")
    hear()
    try:
        train(Path(folder))
        say("trained")
    except ConfigError as error:
        say(str(error))


def save_for_ever(say, hear, path):
    """Two adapters in turns over one file."""
    import torch

    from krona_ops import Adapter, Full, Kron, save

    two = [Adapter({"x": Kron(Full(torch.full((2, 3), v)), Full(torch.full((700, 700), v)))}) for v in (1.0, 2.0)]
    save(two[0], path)
    say("ready")
    while True:
        for each in two:
            save(each, path)
