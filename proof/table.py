"""The drivers, one line each."""

from __future__ import annotations

from .driver import Driver

DRIVERS: tuple[Driver, ...] = (
    Driver(
        *("hostile", "adapters", "hostile.adapters"),
        "A stranger's adapter file is read, or refused by an error of the pack in a fit message, in bounded time and memory, whatever is done with it.",
        cases=70000,
        draw=50,
        batch=500,
        gigabytes=3.0,
    ),
    Driver(
        *("hostile", "settings", "hostile.settings"),
        "Of a run.yaml from a stranger comes a job, or a word of the pack's own, at once and in little memory.",
        cases=30000,
        draw=50,
        batch=500,
        seconds=30,
        gigabytes=4,
    ),
    Driver(
        *("hostile", "rows", "hostile.rows"),
        "Damaged rows of a run's metrics are passed over, whole ones are shown, and nothing leads out of the run's folder.",
        cases=30000,
        draw=60,
        batch=500,
        seconds=30,
        gigabytes=4,
    ),
    Driver(
        *("hostile", "states", "hostile.states"),
        "A saved state that was tampered with is refused or goes on, the whole one beside it is taken, and nothing else raises.",
        cases=10000,
        draw=40,
        batch=500,
        seconds=30,
        gigabytes=4,
    ),
    Driver(
        *("hostile", "entries", "hostile.entries"),
        "An entry of the cache is as it was written, or it is made again.",
        cases=20000,
        draw=100,
        batch=500,
        seconds=30,
        gigabytes=4,
    ),
    Driver(
        *("hostile", "captions", "hostile.captions"),
        "Of captions and metadata files from a stranger comes a data set, or a word of the pack's own.",
        cases=20000,
        draw=100,
        batch=500,
        seconds=30,
        gigabytes=4,
    ),
    Driver(
        *("hostile", "pictures", "hostile.pictures"),
        "Of a picture file from a stranger come its pixels, or a word of the pack's own, in little memory whatever its header says.",
        cases=20000,
        draw=100,
        batch=500,
        seconds=30,
        gigabytes=4,
    ),
    Driver(
        *("hostile", "cameras", "hostile.cameras"),
        "Of a folder of groups and its files with cameras from a stranger comes a data set with the views in their order, or a word of the pack's own.",
        cases=20000,
        draw=100,
        batch=500,
        seconds=30,
        gigabytes=4,
    ),
    Driver(
        *("hostile", "branches", "hostile.branches"),
        "A stranger's file of a parallel branch, the pack's, MV-Adapter's or I2V-Adapter's, is put on a model and drawn with, or refused by an error of the pack.",
        cases=10000,
        draw=40,
        batch=250,
        process="host",
        gigabytes=4,
    ),
    Driver(
        *("hostile", "encoders", "hostile.encoders"),
        "A stranger's file with a condition encoder becomes a control that a model draws with, or is refused by an error of the pack.",
        cases=10000,
        draw=40,
        batch=250,
        process="host",
        gigabytes=4,
    ),
    Driver(
        *("kills", "moments", "kills.moments"),
        "Whenever a process is killed that trains, saves, converts, caches or makes class pictures, each file is whole or absent; the next one goes on "
        "to the same result, bit for bit, and leaves no unfinished file.",
        cases=200,
        draw=5,
        batch=20,
    ),
    Driver(
        *("kills", "uploads", "kills.uploads"),
        "When a server is killed while it takes an upload, the file is whole or absent; the next server takes it, and sweeps what was left.",
        cases=20,
        draw=0,
        batch=5,
        seconds=600,
    ),
    Driver(
        *("disk", "full", "disk.full"),
        "Where the disk is full, the pack says so, leaves whole files and nothing else, and goes on bitwise as soon as there is room.",
        cases=200,
        draw=4,
        batch=20,
    ),
    Driver(
        *("disk", "odd", "disk.odd"),
        "Read-only folders, files that vanish and clocks that were set back end in a word of the pack or in the right result, never in half a file.",
        cases=300,
        draw=4,
        batch=30,
    ),
    Driver(
        *("disk", "two_servers", "disk.two_servers"),
        "Two servers with one output folder never write into one run, and each result is that of a training alone.",
        cases=20,
        draw=0,
        batch=10,
        seconds=600,
    ),
    Driver(
        *("isolation", "outcomes", "isolation.outcomes"),
        "Whatever becomes of a node, MODEL, CLIP and VAE are bitwise as before, nothing hangs on them, and the process's shared state is as it was found.",
        cases=500,
        draw=3,
        batch=10,
        process="host",
        seconds=900,
    ),
    Driver(
        *("audit", "server", "audit.server"),
        "While a server loads, applies, saves, trains and answers, it and its children unpickle nothing, run no code of a file, start no process but the pack's own trainer and speak to no other machine.",
        cases=140,
        draw=2,
        batch=35,
        seconds=600,
    ),
    Driver(
        *("load", "prompts", "load.prompts"),
        "However long a server works, with merges, bypasses, cancels, errors and trainings between, each picture is that of a fresh server, and its memory is at the end within 3 % of the 20th prompt's.",
        cases=200,
        draw=4,
        batch=200,
        seconds=600,
    ),
    Driver(
        *("attacks", "routes", "attacks.routes"),
        "Each hostile request is answered as the table says, by no failure of the server, tells no folder and changes no file.",
        cases=1200,
        draw=40,
        batch=300,
        seconds=120,
    ),
)

PARTS = ("hostile", "kills", "disk", "load", "isolation", "attacks", "audit")


def of(parts: list[str] | None = None, names: list[str] | None = None) -> list[Driver]:
    """The drivers of some parts, or of some names, in the table's order.

    Raises:
        ValueError: There is no such part or driver.
    """
    known = {driver.name for driver in DRIVERS}
    for what, asked, there in (("part", parts, set(PARTS)), ("driver", names, known)):
        if unknown := set(asked or ()) - there:
            raise ValueError(f"there is no {what} {', '.join(sorted(unknown))}; there are {', '.join(sorted(there))}")
    return [d for d in DRIVERS if (not parts or d.part in parts) and (not names or d.name in names)]
