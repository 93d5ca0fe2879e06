"""Do tests race with a busy machine? Runs those with servers,
browsers and processes many times while other processes keep every core busy.

    python3 tools/host.py run proof/flakes.py [--rounds 20] [--only tests/web,tests/host/test_upload.py] [--lanes 3] [--anew] [--keep]

With more than one lane, files run side by side and are each other's load, so that fewer processes need to compute for
nothing. A line of JSON for each file and round goes to proof-work/flakes.jsonl; a run that was stopped goes on there.
Ends with what failed, and how often. ``--keep`` runs nothing and adds what has been run to the tally beside this
file: rounds in it count, wherever the next ones are run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path

PACK = Path(__file__).absolute().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(PACK)  # instead of this file's folder, so that `tools` is one package for scripts and for tests

from benchmarks.contest import commit, machine  # noqa: E402

WORK = PACK / "proof-work" / "flakes.jsonl"
TALLY = PACK / "proof" / f"flakes-{machine()}.json"
TESTS = (
    "tests/host/test_attacks.py",
    "tests/host/test_dataset_lists.py",
    "tests/host/test_failures.py",
    "tests/host/test_headless.py",
    "tests/host/test_loop.py",
    "tests/host/test_lora_stacks.py",
    "tests/host/test_material_nodes.py",
    "tests/host/test_routes.py",
    "tests/host/test_server.py",
    "tests/host/test_upload.py",
    "tests/host/test_upload_pace.py",
    "tests/ops/test_atomic.py",
    "tests/ops/test_files.py",
    "tests/proof",
    "tests/tools/test_host.py",
    "tests/tools/test_server.py",
    "tests/tools/test_workflow.py",
    "tests/train/data/test_cache.py",
    "tests/train/run/test_claim.py",
    "tests/train/processes/test_launch.py",
    "tests/train/run/test_litter.py",
    "tests/train/processes/test_processes.py",
    "tests/train/run/test_state.py",
    "tests/web",
)
"""What waits for something: servers, the browser, processes, threads."""
SPIN = "import ctypes, signal, sys\nif sys.platform == 'linux': ctypes.CDLL(None).prctl(1, signal.SIGKILL)\nwhile True: pass"
SECONDS = 3600.0
"""Of one file; one that takes longer hangs, and has failed."""


@contextlib.contextmanager
def busy(cores: int) -> Iterator[None]:
    """As many processes as cores that do nothing but compute, inside the block."""
    spinning = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(cores)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def files_of(paths: Sequence[str]) -> list[str]:
    """Files as they are, and those in folders one by one: one that hangs or fails is named."""
    files = []
    for path in paths:
        inside = sorted((PACK / path).glob("test_*.py"))
        files += [file.relative_to(PACK).as_posix() for file in inside] or [path]
    return files


def once(file: str) -> dict[str, object]:
    """Run the tests of one file or folder; what failed, by name, and how many there were."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        argv = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", file]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                argv, cwd=PACK, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
            )
            code, output = done.returncode, done.stdout[-3000:]
        except subprocess.TimeoutExpired:
            code, output = -1, f"it hung: not finished within {SECONDS:.0f} s"
        cases = list(ET.parse(report).iter("testcase")) if report.exists() else []
    failed = [name(case) for case in cases if case.find("failure") is not None or case.find("error") is not None]
    if code not in (0, 1) and not failed:
        failed = [f"{file}: pytest ended with code {code}"]
    return {
        "file": file,
        "tests": len(cases),
        "failed": failed,
        "seconds": round(time.monotonic() - start),
        "said": output if failed else "",
    }


def name(case: ET.Element) -> str:
    """As pytest names a test, nearly."""
    return f"{case.get('classname')}::{case.get('name')}"


def rows() -> list[dict]:
    """What has been run."""
    return [json.loads(line) for line in WORK.read_text(encoding="utf-8").splitlines()] if WORK.exists() else []


def tally() -> dict[str, dict]:
    """What was kept, by file: rounds, tests, seconds, how often which test failed, and at which commits."""
    return json.loads(TALLY.read_text(encoding="utf-8")) if TALLY.exists() else {}


def keep() -> None:
    """Add what has been run to the tally, and forget it."""
    kept = tally()
    for row in rows():
        entry = kept.setdefault(row["file"], {"rounds": 0, "tests": 0, "seconds": 0, "failed": {}, "commits": []})
        entry["rounds"] += 1
        entry["tests"] += row["tests"]
        entry["seconds"] += row["seconds"]
        for test in row["failed"]:
            entry["failed"][test] = entry["failed"].get(test, 0) + 1
        entry["commits"] = sorted({*entry["commits"], row["commit"]})
    TALLY.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n", encoding="utf-8")
    WORK.unlink(missing_ok=True)


def main(argv: list[str]) -> int:
    """The command line; 1 where something failed even once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--only", help="files or folders of tests, with commas; those that wait for something without it"
    )
    parser.add_argument("--lanes", type=int, default=1, help="files that are run side by side")
    parser.add_argument("--anew", action="store_true", help="forget what has been run")
    parser.add_argument("--keep", action="store_true", help="add what has been run to the tally, and run nothing")
    options = parser.parse_args(argv)
    if options.keep:
        keep()
        return 0
    cores = os.cpu_count() or 1
    files = files_of(options.only.split(",") if options.only else TESTS)
    WORK.parent.mkdir(exist_ok=True)
    if options.anew:
        WORK.unlink(missing_ok=True)
    done = {(row["file"], row["round"]) for row in rows()}
    before = {file: entry["rounds"] for file, entry in tally().items()}
    done |= {(file, number + 1) for file, count in before.items() for number in range(count)}
    wanted = [(file, number) for number in range(1, options.rounds + 1) for file in files if (file, number) not in done]

    def row_of(work: tuple[str, int]) -> dict[str, object]:
        file, number = work
        return {"round": number, "commit": commit(), "machine": machine(), "lanes": options.lanes, **once(file)}

    with busy(max(1, cores - options.lanes + 1)), ThreadPool(options.lanes) as lanes:
        for row in lanes.imap_unordered(row_of, wanted):
            with WORK.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row) + "\n")
            print(
                f"round {row['round']} of {options.rounds}, {row['file']}: {row['tests']} tests, {row['seconds']} s, failed: {row['failed'] or 'none'}",
                flush=True,
            )
    asked = [row for row in rows() if row["file"] in files and row["round"] <= options.rounds]
    kept = [entry for file, entry in tally().items() if file in files]
    failed = Counter(test for row in asked for test in row["failed"])
    failed.update(Counter({test: count for entry in kept for test, count in entry["failed"].items()}))
    tests = sum(each["tests"] for each in (*asked, *kept))
    print(f"{tests:,} tests in {options.rounds} rounds with {cores} cores kept busy: {sum(failed.values())} failures")
    for test, count in failed.most_common():
        print(f"  {count} × {test}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
