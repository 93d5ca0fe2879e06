"""What a training can be asked for by a choice of words: where it runs, and what it goes on from. Saved graphs hold these words."""

HERE, PROCESS, ALL_GPUS = "in ComfyUI", "separate process", "all GPUs"
NEW, SAME = "(new run)", "(go on if it is the same)"
