"""Pictures to train on, and what a training could leave behind on a model that others use too."""

import hashlib

import torch

from krona_train.batches.examples import Example


def examples(count=5, size=8):
    from krona_train.comfyui.encode import PictureSize, TextCondition

    rng = torch.Generator().manual_seed(3)
    square = PictureSize(64, 64, 0, 0, 64, 64)
    with torch.inference_mode():  # as the host hands them out
        return [
            Example(
                torch.randn(4, size, size, generator=rng) / 0.18215,
                TextCondition(torch.randn(1, 77, 768, generator=rng), {}, square),
                f"caption {n}",
            )
            for n in range(count)
        ]


def weights_hash(net):
    digest = hashlib.sha256()
    for key, value in sorted(net.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def surroundings(comfy, net):
    """Everything that a training could leave behind on the shared model."""
    return (
        comfy.model_management.in_training,
        {name: set(module.__dict__) for name, module in net.named_modules()},
        {name: (id(p), p.requires_grad, p.is_inference()) for name, p in net.named_parameters()},
        {name: (id(b), b.is_inference()) for name, b in net.named_buffers()},
        net.training,
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
    )
