"""Small graphs in the host's API format, and the folder of a host to run them in."""

import shutil

from tools import tiny_models

CHECKPOINT = "tiny.safetensors"


def lay_out(base):
    """A ComfyUI base folder with the tiny checkpoint."""
    (base / "models" / "checkpoints").mkdir(parents=True)
    (base / "models" / "loras").mkdir()
    (base / "models" / "checkpoints" / CHECKPOINT).symlink_to(tiny_models.cached("sd15"))
    return base


def lay_out_for_the_browser(base):
    """The same with a checkpoint that can draw, and pictures to train on."""
    lay_out(base)
    (base / "models" / "checkpoints" / "tiny-full.safetensors").symlink_to(tiny_models.cached("sd15", clip=True, vae=True))
    shutil.copytree(tiny_models.PACK / "samples" / "krobot", base / "input" / "krobot")
    return base


def link(node, output=0):
    return [str(node), output]


def checkpoint(name):
    return {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": name}}


def render(model, clip=("1", 1), vae=("1", 2), prefix="picture", size=64, steps=2, start=20):
    """Nodes that sample and save one picture; ids from `start`."""
    text = {"class_type": "CLIPTextEncode", "inputs": {"clip": list(clip), "text": "a photo of sks robot"}}
    return {
        str(start): text,
        str(start + 1): {"class_type": "EmptyLatentImage", "inputs": {"width": size, "height": size, "batch_size": 1}},
        str(start + 2): {
            "class_type": "KSampler",
            "inputs": {
                "model": list(model), "positive": link(start), "negative": link(start), "latent_image": link(start + 1),
                "seed": 7, "steps": steps, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
            },
        },
        str(start + 3): {"class_type": "VAEDecode", "inputs": {"samples": link(start + 2), "vae": list(vae)}},
        str(start + 4): {"class_type": "SaveImage", "inputs": {"images": link(start + 3), "filename_prefix": prefix}},
    }  # fmt: skip


def dataset(**changes):
    inputs = {
        "prompt": "a photo of sks robot", "folder": "", "captions": "from .txt files, else the prompt", "resolution": 64, **changes,
    }  # fmt: skip
    return {"class_type": "KronaDataset", "inputs": inputs}


def train(**changes):
    inputs = {
        "model": link(1), "clip": link(1, 1), "vae": link(1, 2), "dataset": link(2), "name": "robot", "steps": 4,
        "learning_rate": 5e-3, "batch_size": 2, "seed": 0, "factor_out": 64, "factor_in": 4, **changes,
    }  # fmt: skip
    return {"class_type": "KronaTrain", "inputs": inputs}


def save(krona, prefix="krona/robot"):
    return {"class_type": "KronaSave", "inputs": {"krona": list(krona), "filename_prefix": prefix}}


def load(file):
    return {"class_type": "KronaLoad", "inputs": {"file": file}}


def apply(krona, model=("1", 0), strength=1.0, mode="auto"):
    inputs = {"model": list(model), "krona": list(krona), "strength_model": strength, "strength_clip": 1.0, "mode": mode}
    return {"class_type": "KronaApply", "inputs": inputs}


def load_apply(file, strength=1.0):
    inputs = {"model": link(1), "file": file, "strength_model": strength, "strength_clip": 1.0}
    return {"class_type": "KronaLoadApply", "inputs": inputs}


def load_lora(file, strength=1.0):
    return {"class_type": "LoraLoaderModelOnly", "inputs": {"model": link(1), "lora_name": file, "strength_model": strength}}


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}
