"""How the runs in this folder were made: by an old commit's code, stopped in the middle, and gone on with by it.

    git worktree add --detach /somewhere/old COMMIT
    cd /somewhere/old
    PYTHONPATH=. OMP_NUM_THREADS=1 python HERE/make_run.py COMMIT CHECKPOINT

in the Python of ``tools/host.py run``, with ``tiny_models.cached("sd3")`` as the checkpoint. It imports modules of that
time, so nothing of today's pack can run it.
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parents[1] / "support"))

from arithmetic import fingerprint  # noqa: E402

PLACE = "/place/of/the/run"
"""Stands in run.yaml for folders of the machine that made it."""
NAMES = {
    "f317e4e": (
        "krona_train.backbone.protocol",
        "krona_train.backbone.comfyui.encode",
        "krona_train.backbone.comfyui.material",
    ),
    "0a0a05a": ("krona_train.batches.examples", "krona_train.comfyui.encode", "krona_train.session.material"),
}
TRAININGS = {
    "f317e4e": """
  adapter: {targets: [{factors: [8, 4]}]}
  objective: {weighting: min_snr, noise_offset: 0.05}
  prior: {weight: 1.0, source: pictures}
  data: {resolution: 64, bucket_step: 8, caption_dropout: 0.2}
  optimizer: {learning_rate: 5e-3, schedule: cosine, warmup: 2}
""",
    "0a0a05a": """
  adapter: {kind: lora, rank: 2, alpha: 2.0}
  objective: {distance: huber, levels: logit_normal}
  prior: {weight: 0.5, source: model}
  data: {resolution: 64, bucket_step: 8, caption_dropout: 0.2}
  optimizer: {learning_rate: 5e-3, rate_b: 4.0}
  accumulate: 2
""",
}
STEPS, STOP = 30, 5


def material(commit: str) -> object:
    """Three encoded pictures of two forms each and two of the class, as the old code keeps them."""
    examples, encode, kept = map(importlib.import_module, NAMES[commit])
    rng = torch.Generator().manual_seed(19)
    size = kept.PictureSize(64, 64, 0, 0, 64, 64)

    def condition(caption: str) -> object:
        pooled = torch.randn(1, 32, generator=rng)
        return encode.TextCondition(torch.randn(1, 8, 64, generator=rng), {"pooled_output": pooled}, size, caption)

    class_condition, empty = condition("a robot"), condition("")

    def item(caption: str) -> object:
        words, latents = condition(caption), [torch.randn(16, 8, 8, generator=rng) for _ in range(2)]
        forms = tuple(examples.Example(x, words, caption, None, class_condition) for x in latents)
        return examples.Item(forms, tuple(examples.Example(x, empty, "", None, class_condition) for x in latents))

    captions = tuple(f"sks robot {number}" for number in range(3))
    latents = [torch.randn(16, 8, 8, generator=rng) for _ in range(2)]
    of_the_class = tuple(examples.Item((examples.Example(x, class_condition, "a robot"),)) for x in latents)
    return kept.Material(tuple(map(item, captions)), of_the_class, (), None, captions, 64)


def train(file: Path, *more: str, stop_after: int = 0) -> None:
    """Run the old command line; with ``stop_after`` it is asked to stop when it has done so many steps."""
    command = [sys.executable, "-m", "krona_train", str(file), *more, "--events", "--", "--cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        event = json.loads(line)
        if stop_after and event.get("krona.event") == "Stepped" and event["step"] == stop_after:
            process.terminate()
    assert process.wait() == (130 if stop_after else 0)


def main(commit: str, checkpoint: str) -> None:
    """Make the run of one commit anew."""
    work = Path(tempfile.mkdtemp())
    folder, out = work / "robot", HERE / commit
    folder.mkdir()
    material(commit).save(folder / "encoded.safetensors")
    (folder / "run.yaml").write_text(
        f"name: robot\noutput: {work}\ncomfyui: {os.environ['COMFYUI_PATH']}\nmodel: {{checkpoint: {checkpoint}}}\n"
        f"pictures: {{folder: {work}/pictures, prompt: sks robot}}\ntraining:\n  steps: {STEPS}\n  batch_size: 2\n"
        "  save_every: 3\n  keep_states: 1\n  ema: {decay: 0.9}\n  validation: {every: 3, levels: 2}\n"
        f"{TRAININGS[commit].lstrip(chr(10))}"
    )
    encoded = str(folder / "encoded.safetensors")
    train(folder / "run.yaml", "--folder", str(folder), "--encoded", encoded, stop_after=STOP)
    shutil.rmtree(out / "robot", ignore_errors=True)
    shutil.copytree(folder, out / "robot", ignore=shutil.ignore_patterns("events.*"))
    train(folder / "run.yaml", "--folder", str(folder), "--resume")
    shutil.copy(folder / "adapter.safetensors", out / "expected.safetensors")
    shutil.copy(folder / "metrics.jsonl", out / "expected.jsonl")
    settings = out / "robot" / "run.yaml"
    text = settings.read_text()
    for there, name in ((checkpoint, "tiny.safetensors"), (os.environ["COMFYUI_PATH"], "ComfyUI"), (str(work), "runs")):
        text = text.replace(there, f"{PLACE}/{name}")
    settings.write_text(text)
    (out / "arithmetic.json").write_text(json.dumps({"torch": torch.__version__, "fingerprint": fingerprint()}) + "\n")


if __name__ == "__main__":
    sys.path[:1] = [os.getcwd(), os.environ["COMFYUI_PATH"]]  # the old pack, not this folder
    importlib.import_module("comfy.cli_args").args.cpu = True
    main(*sys.argv[1:])
