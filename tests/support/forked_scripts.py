"""Python scripts, each in a process of its own that begins with the packages that take longest to import: forked, not started.

    echo '[[["benchmarks/layer.py", "--rehearse"], "out.txt", "err.txt"], …]' | python forked_scripts.py

Two at a time; prints their exit statuses as a list. What is imported beforehand are packages of others and nothing of
ComfyUI, so a script that imports it too early is still seen. One that uses a part of torch without importing it is not:
whoever uses this starts one of its scripts in the ordinary way.
"""

import importlib
import json
import os
import runpy
import sys

BEFOREHAND = ("torch._dynamo", "transformers", "torchvision", "scipy.integrate", "comfy_kitchen", "lycoris", "peft")
TOGETHER = 2


def forked(argv, out, err):
    """Fork: the child's process id in the parent, 0 in the child, whose output goes to two files."""
    if pid := os.fork():
        return pid
    for stream, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, stream)
        os.close(file)
    sys.argv = argv
    sys.path[0] = os.path.dirname(os.path.abspath(argv[0]))  # as Python does for a script
    return 0


def main():
    """Run all, or be one of them: the path of the script in the child, None in the parent."""
    jobs = json.load(sys.stdin)
    for module in BEFOREHAND:
        importlib.import_module(module)
    running, statuses = {}, [None] * len(jobs)
    for number, job in enumerate(jobs):
        pid = forked(*job)
        if not pid:
            return job[0][0]
        running[pid] = number
        while running and (len(running) == TOGETHER or number == len(jobs) - 1):
            ended, status = os.wait()
            statuses[running.pop(ended)] = os.waitstatus_to_exitcode(status)
    sys.stdout.write(json.dumps(statuses))
    return None


if __name__ == "__main__":
    script = main()
    if script:
        runpy.run_path(script, run_name="__main__")
