"""Choices of the node Train KronA: where a training runs, and what it goes on from. Saved graphs hold these words."""

HERE, PROCESS, ALL_GPUS = "in ComfyUI", "separate process", "all GPUs"
NEW, SAME = "(new run)", "(go on if it is the same)"
