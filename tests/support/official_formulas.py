"""What MV-Adapter and I2V-Adapter compute, in plain PyTorch and on the host's sampler.

Written with masks over all tokens of a group, and from a file's own tensors and names: neither the pack's reader nor its
attention has a part in it.
"""

from contextlib import contextmanager

import torch
from torch.nn import functional as F

SIZE = (6, 10)
"""Height and width of the latents: not square, as the authors' code wants them, and no multiple of anything."""
LEVELS = {60: (6, 10), 15: (3, 5), 6: (2, 3), 2: (1, 2)}
"""Height and width by the number of tokens, level by level."""


def latents(count, seed=1, size=SIZE):
    return torch.randn(count, 4, *size, generator=torch.Generator().manual_seed(seed))


def sample(model, prompts, latent, *, cfg=3.0, steps=2, denoise=1.0):
    import comfy.sample

    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(5))
    positive, negative = ([prompt] for prompt in prompts)
    with torch.inference_mode():
        return comfy.sample.sample(
            model, noise, steps, cfg, "euler", "normal", positive, negative, latent, denoise=denoise, seed=5
        )


def heads_of(attention, *tensors):
    return [t.unflatten(-1, (attention.heads, -1)).transpose(-3, -2) for t in tensors]


def attended(attention, q, k, v, mask=None):
    out = F.scaled_dot_product_attention(*heads_of(attention, q, k, v), attn_mask=mask)
    return out.transpose(-3, -2).flatten(-2)


def places(tokens, views):
    """View, row and column of each token of a group, ``(views·tokens,)`` each."""
    height, width = LEVELS[tokens]
    grid = torch.meshgrid(torch.arange(views), torch.arange(height), torch.arange(width), indexing="ij")
    return [x.flatten() for x in grid]


def in_rows(attention, q, k, v, views):
    """MV-Adapter, section 4.1: a token sees those in the same row of all views."""
    _, row, _ = places(q.shape[1], views)
    grouped = [x.reshape(-1, views * x.shape[1], x.shape[2]) for x in (q, k, v)]
    return attended(attention, *grouped, row[:, None] == row[None, :]).reshape(q.shape)


def in_rows_and_columns(attention, q, k, v, views):
    """For texturing: rows among views 0 to 3, columns among 0, 2, 4, 5 with view 0 in a mirror, the mean of both."""
    assert views == 6
    view, row, column = places(q.shape[1], views)
    mirrored = torch.where(view == 0, LEVELS[q.shape[1]][1] - 1 - column, column)
    grouped = [x.reshape(-1, views * x.shape[1], x.shape[2]) for x in (q, k, v)]
    total, count = torch.zeros_like(grouped[0]), torch.zeros(len(view), 1)
    for among, line in (((0, 1, 2, 3), row), ((0, 2, 4, 5), mirrored)):
        inside = torch.isin(view, torch.tensor(among))
        mask = (line[:, None] == line[None, :])[inside][:, inside]
        total[:, inside] += attended(attention, *(x[:, inside] for x in grouped), mask)
        count[inside] += 1
    return (total / count).reshape(q.shape)


class Authors:
    """What the papers add to each self-attention, with a file's own tensors."""

    def __init__(self, tensors, *, views=1, pattern=None, tokens=None, scale=1.0, positive_alone=False):
        self.tensors, self.views, self.pattern, self.tokens = tensors, views, pattern, tokens
        self.scale, self.positive_alone, self.side = scale, positive_alone, "positive"

    def added(self, site, attention, n):
        def weight(part):
            return self.tensors.get(f"{site}.processor.{part}", self.tensors.get(f"{site}.{part}"))

        def projected(kind, source):
            return F.linear(n, weight(f"to_q_{kind}.weight")), *(
                F.linear(source, weight(f"to_{p}_{kind}.weight")) for p in "kv"
            )

        gained = torch.zeros_like(n)
        if self.side == "negative" and self.positive_alone:
            return gained
        if self.pattern is not None:
            mixed = self.pattern(attention, *projected("mv", n), self.views)
            gained = gained + F.linear(mixed, weight("to_out_mv.0.weight"), weight("to_out_mv.0.bias"))
        if self.tokens is not None:
            seen = self.tokens[site]  # the pipeline gives the negative prompt zeros of the same shape
            seen = torch.zeros_like(seen) if self.side == "negative" else seen
            mixed = attended(attention, *projected("ref", seen.expand(len(n), -1, -1)))
            gained = gained + F.linear(mixed, weight("to_out_ref.0.weight"), weight("to_out_ref.0.bias"))
        if weight("to_q_ff.weight") is not None:
            first = n[:: self.views].repeat_interleave(self.views, 0)
            query = F.linear(n, weight("to_q_ff.weight"))
            mixed = attended(attention, query, attention.to_k(first), attention.to_v(first))
            output = F.linear(mixed, weight("to_out_ff.weight"), weight("to_out_ff.bias"))
            output[:: self.views] = 0  # the first frame is given, and gains nothing
            gained = gained + output
        return self.scale * gained


@contextmanager
def hooked(model, sites, authors):
    """Forward hooks on the self-attentions, and a clone that computes one condition at a time and says which."""

    def one_by_one(executor, net, conds, *rest):
        done = []
        for side, cond in zip(("positive", "negative"), conds, strict=False):
            authors.side = side
            done.append(executor(net, [cond], *rest)[0])
        return done

    split = model.clone()
    split.add_wrapper_with_key("calc_cond_batch", "one by one", one_by_one)
    handles = []
    for theirs, (_, ours) in sites.items():

        def add(attention, args, out, *, site=theirs):
            return out + authors.added(site, attention, args[0])

        handles.append(model.model.get_submodule(ours).register_forward_hook(add))
    try:
        yield split
    finally:
        for handle in handles:
            handle.remove()


def tokens_of(model, sites, prompt, reference, picture):
    """What each self-attention reads of a clean reference, at timestep 0 and under the prompt, without the adapter."""
    import comfy.sampler_helpers
    import comfy.samplers

    net, read, handles = model.model, {}, []
    for theirs, (_, ours) in sites.items():
        module = net.get_submodule(ours)
        handles.append(module.register_forward_hook(lambda m, args, out, site=theirs: read.update({site: args[0]})))
    with torch.inference_mode():
        clean = net.process_latent_in(reference)
        [cond] = comfy.samplers.encode_model_conds(
            net.extra_conds, comfy.sampler_helpers.convert_cond([prompt]), picture, clean.device, "positive"
        )
        known = {key: value.process_cond(batch_size=len(clean)).cond for key, value in cond["model_conds"].items()}
        sigma = net.model_sampling.sigmas[:1]
        net.apply_model(clean * (sigma**2 + 1) ** 0.5, sigma.expand(len(clean)), transformer_options={}, **known)
    for handle in handles:
        handle.remove()
    return {site: tokens.reshape(1, -1, tokens.shape[-1]) for site, tokens in read.items()}


def first_frames_given(frames, views):
    """For the host's ``apply_model``: the first frame of each group is never noisy, I2V-Adapter's figure 2."""

    def given(executor, x, t, *rest, **more):
        x, shape = x.clone(), (-1, 1, 1, 1)
        x[::views] = frames * (t[::views].reshape(shape) ** 2 + 1).sqrt()
        denoised = executor(x, t, *rest, **more).clone()
        denoised[::views] = frames
        return denoised

    return given


def distance(ours, expected):
    return float((ours - expected).norm() / expected.norm())
