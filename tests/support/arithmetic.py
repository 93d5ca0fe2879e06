"""Whether two machines compute alike, to the last bit."""

import zlib

import torch


def fingerprint():
    """A number that depends on how this machine's libraries multiply, sum and round; on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x = torch.arange(64 * 192, dtype=torch.float32).reshape(64, 192).sin()
        weight = torch.arange(192 * 64, dtype=torch.float32).reshape(192, 64).cos()
        for _ in range(8):
            x = torch.nn.functional.gelu(torch.nn.functional.layer_norm(x, (192,)) @ weight)
            x = (x.softmax(-1) @ weight.T).exp().mul(0.9).sqrt()
        heads = x.reshape(1, 4, 64, 48)
        attended = torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
        return zlib.crc32(attended.numpy().tobytes())
    finally:
        torch.set_num_threads(threads)
