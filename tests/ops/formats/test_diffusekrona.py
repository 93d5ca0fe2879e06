"""Official DiffuseKronA files: from the formula of their code, since their authors' library has no package."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from krona_ops import Adapter, Full, Kron, load, save
from krona_ops.errors import FormatError
from krona_ops.formats.encode import encode
from krona_ops.formats.header import Header
from krona_ops.formats.processors import _BLOCKS, _processors
from krona_ops.formats.registry import detect

BLOCK = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn{}.processor.to_{}_lora"


SHUFFLED = Kron(Full(torch.ones(2, 2)), Full(torch.ones(3, 3)), 1.0, "shuffled")


def official_delta(down, up):
    """facts: ``dW[m·a1 + k, i·b2 + j] = down[i, k] · up[m, j]``."""
    (a2, a1), (b1, b2) = down.shape, up.shape
    return torch.einsum("ik,mj->mkij", down, up).reshape(b1 * a1, a2 * b2)


def official_forward(x, down, up):
    """The released code on ``(tokens, in)``: view as (a2, b2), ``up @ (X @ down)``, flattened row by row."""
    (a2, _), (_, b2) = down.shape, up.shape
    return (up @ (x.reshape(-1, a2, b2).transpose(1, 2) @ down)).flatten(1)


def official_file(path, width=(10, 12), context=15, a=(2, 3)):
    """One attention block: self-attention, and cross-attention whose keys and values see a wider context."""
    torch.manual_seed(0)
    tensors = {}
    for attention in (1, 2):
        for projection in ("q", "k", "v", "out"):
            wide = context if attention == 2 and projection in "kv" else width[1]
            stem = BLOCK.format(attention, projection)
            tensors[f"{stem}.down.weight"] = torch.randn(a[1], a[0])
            tensors[f"{stem}.up.weight"] = torch.randn(width[0] // a[0], wide // a[1])
    save_file(tensors, path, {"format": "pt"})
    return tensors


def test_the_fixture_of_the_facts(tmp_path):
    stem = BLOCK.format(1, "q")
    down, up = torch.tensor([[1.0, 2], [3, 4], [5, 6]]), torch.tensor([[1.0, 10], [100, 1000]])
    save_file({f"{stem}.down.weight": down, f"{stem}.up.weight": up}, tmp_path / "x.safetensors")
    (delta,) = load(tmp_path / "x.safetensors").layers.values()
    rows = [
        [1, 10, 3, 30, 5, 50],
        [2, 20, 4, 40, 6, 60],
        [100, 1000, 300, 3000, 500, 5000],
        [200, 2000, 400, 4000, 600, 6000],
    ]
    assert torch.equal(delta.dense(), torch.tensor(rows, dtype=torch.float32))


def test_every_layer_is_what_the_released_code_computes(tmp_path):
    tensors = official_file(tmp_path / "x.safetensors")
    adapter = load(tmp_path / "x.safetensors")
    assert len(adapter) == 8
    assert "official DiffuseKronA, shuffled layout" in adapter.notes[0]
    for name, delta in adapter.layers.items():
        down, up = tensors[f"{name}_lora.down.weight"], tensors[f"{name}_lora.up.weight"]
        assert torch.equal(delta.dense(), official_delta(down, up))
        x = torch.randn(4, delta.shape[1])
        torch.testing.assert_close(delta.apply(x), official_forward(x, down, up))


def test_the_file_round_trips_bit_for_bit(tmp_path):
    tensors = official_file(tmp_path / "x.safetensors")
    save(load(tmp_path / "x.safetensors"), tmp_path / "y.safetensors", "diffusekrona")
    again = load_file(tmp_path / "y.safetensors")
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[key], tensors[key]) for key in again)


def shapes(a, widths, contexts=()):
    """Header shapes of a file with code factors ``a = (a1, a2)``."""
    shapes_by_key = {}
    for number, (out, into) in enumerate([(w, w) for w in widths] + [(w, c) for w in widths for c in contexts]):
        stem = f"unet.b.{number}.attn1.processor.to_q_lora"
        shapes_by_key |= {f"{stem}.down.weight": (a[1], a[0]), f"{stem}.up.weight": (out // a[0], into // a[1])}
    return shapes_by_key


@pytest.mark.parametrize("a", [(64, 8), (64, 4), (4, 64), (8, 32), (2, 32)])
@pytest.mark.parametrize(
    ("widths", "contexts"), [((640, 1280), (2048,)), ((320, 640, 1280), (768,)), ((320, 640, 1280), (1024,))]
)
def test_it_is_told_from_a_lora_by_the_shapes(a, widths, contexts):
    """SD 2 with 32: the cross-attention's 1024 = 32 · 32 looks like a LoRA of rank 32, but not the layers beside it."""
    assert detect(Header(shapes(a, widths, contexts), {})).NAME == "diffusekrona"


@pytest.mark.parametrize("rank", [1, 4, 64])
def test_a_lora_with_the_same_names_stays_a_lora(rank):
    shapes_by_key = {}
    for number, width in enumerate((320, 640, 1280)):
        stem = f"unet.b.{number}.attn1.processor.to_q_lora"
        shapes_by_key |= {f"{stem}.down.weight": (rank, width), f"{stem}.up.weight": (width, rank)}
    assert detect(Header(shapes_by_key, {})).NAME == "lora"


def test_a_missing_half_is_named(tmp_path):
    tensors = official_file(tmp_path / "x.safetensors")
    del tensors[f"{BLOCK.format(2, 'v')}.up.weight"]
    save_file(tensors, tmp_path / "x.safetensors")
    adapter = load(tmp_path / "x.safetensors")
    assert len(adapter) == len(tensors) // 2
    (left,) = adapter.left_out
    assert (left.method, left.names) == ("DiffuseKronA", (BLOCK.format(2, "v").removesuffix("_lora"),))
    assert left.reason.startswith("up is missing")


def test_one_foreign_tensor_leaves_an_official_file_official(tmp_path):
    tensors = official_file(tmp_path / "x.safetensors")
    whole = load(tmp_path / "x.safetensors")
    for foreign in (
        {"mystery": torch.ones(3)},
        {"unet.conv_in.weight": torch.ones(2, 2)},
        {"a.oft_blocks": torch.ones(1, 2, 2)},
    ):
        save_file({**tensors, **foreign}, tmp_path / "y.safetensors")
        adapter = load(tmp_path / "y.safetensors")
        assert dict(adapter.layers) == dict(whole.layers)
        assert len(adapter.left_out) == 1


def test_other_methods_beside_official_layers_are_read_too(tmp_path):
    tensors = official_file(tmp_path / "x.safetensors")
    whole = load(tmp_path / "x.safetensors")
    others = {
        "a.lokr_w1": torch.ones(2, 3), "a.lokr_w2": torch.ones(5, 4), "b.lora_A.weight": torch.ones(2, 3),
        "b.lora_B.weight": torch.ones(5, 2), "c.alpha": torch.ones(()),
    }  # fmt: skip
    save_file({**tensors, **others}, tmp_path / "y.safetensors")
    adapter = load(tmp_path / "y.safetensors")
    assert {name: adapter.layers[name] for name in whole.layers} == dict(whole.layers)
    assert set(adapter.layers) - set(whole.layers) == {"a", "b"}
    assert [one.names for one in adapter.left_out] == [("c",)]


@pytest.mark.parametrize(
    ("name", "delta", "reason"),
    [
        ("unet.a.attn1.processor.to_q", Kron(Full(torch.ones(2, 2)), Full(torch.ones(3, 3))), "in the kron layout"),
        ("unet.a.attn1.to_q", SHUFFLED, "Official files hold the UNet's attentions and feed-forward layers"),
        ("diffusion_model.a.mlp", SHUFFLED, "Official files hold"),
        ("text_encoder.text_model.embeddings.token_embedding", SHUFFLED, "Official files hold"),
    ],
)
def test_what_it_cannot_hold_is_an_error(name, delta, reason, tmp_path):
    with pytest.raises(FormatError, match=reason):
        save(Adapter({name: delta}), tmp_path / "x.safetensors", "diffusekrona")


def test_a_scale_goes_into_the_small_factor(tmp_path):
    tensors = official_file(tmp_path / "x.safetensors")
    save(load(tmp_path / "x.safetensors").scaled(0.5), tmp_path / "y.safetensors", "diffusekrona")
    stem = BLOCK.format(1, "k")
    again = load_file(tmp_path / "y.safetensors")
    assert torch.equal(again[f"{stem}.down.weight"], tensors[f"{stem}.down.weight"] / 2)
    assert torch.equal(again[f"{stem}.up.weight"], tensors[f"{stem}.up.weight"])


SIDES = {"down_blocks": ((0, 2), (1, 2), (2, 2)), "mid_block": ((None, 1),), "up_blocks": ((1, 3), (2, 3), (3, 3))}
WIDTH, CONTEXT, FACTORS = 24, 32, (8, 4)


def stable_diffusion(mlp=False, text=False, projections=("q", "k", "v", "out")):
    """A file of SD's 32 attentions, as `unet_attn_processors_state_dict`, `unet_ffn_within_attn_processors_state_dict`
    and `text_encoder_lora_state_dict` name them."""
    torch.manual_seed(0)
    tensors = {}

    def add(stem, out, into, a=FACTORS):
        tensors[f"{stem}.down.weight"] = torch.randn(a[1], a[0])
        tensors[f"{stem}.up.weight"] = torch.randn(out // a[0], into // a[1])

    for side, blocks in SIDES.items():
        for block, attentions in blocks:
            for n in range(attentions):
                start = f"unet.{side}{'' if block is None else f'.{block}'}.attentions.{n}.transformer_blocks.0"
                for attention in (1, 2):
                    for projection in projections:
                        wide = CONTEXT if attention == 2 and projection in "kv" else WIDTH
                        add(f"{start}.attn{attention}.processor.to_{projection}_lora", WIDTH, wide)
                if mlp:
                    add(f"{start}.ff.net.0.proj.lora_layer", 8 * WIDTH, WIDTH, (2, 4))
                    add(f"{start}.ff.net.2.lora_layer", WIDTH, 4 * WIDTH, (2, 4))
    for n in range(2 if text else 0):
        for encoder in ("text_encoder", "text_encoder_2"):
            start = f"{encoder}.text_model.encoder.layers.{n}"
            for projection in ("q", "k", "v", "out"):
                add(f"{start}.self_attn.{projection}_proj.lora_linear_layer", CONTEXT, CONTEXT, (4, 2))
            add(f"{start}.mlp.fc1.lora_linear_layer", 4 * CONTEXT, CONTEXT, (2, 8))
            add(f"{start}.mlp.fc2.lora_linear_layer", CONTEXT, 4 * CONTEXT, (2, 8))
    return tensors


@pytest.mark.parametrize("mlp", [False, True])
@pytest.mark.parametrize("text", [False, True])
def test_feed_forward_layers_and_text_encoders_come_in_and_go_out_bit_for_bit(mlp, text, tmp_path):
    tensors = stable_diffusion(mlp, text)
    save_file(tensors, tmp_path / "x.safetensors")
    adapter = load(tmp_path / "x.safetensors")
    assert len(adapter.notes) == 1
    for name, delta in adapter.layers.items():
        end = next(end for end in ("_lora", ".lora_layer", ".lora_linear_layer") if f"{name}{end}.up.weight" in tensors)
        assert torch.equal(
            delta.dense(), official_delta(tensors[f"{name}{end}.down.weight"], tensors[f"{name}{end}.up.weight"])
        )
    save(adapter, tmp_path / "y.safetensors", "diffusekrona")
    again = load_file(tmp_path / "y.safetensors")
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[key], tensors[key]) for key in again)


@pytest.mark.parametrize(
    ("name", "in_file"),
    [
        (
            "clip_l.transformer.text_model.encoder.layers.3.self_attn.q_proj",
            "text_encoder.text_model.encoder.layers.3.self_attn.q_proj",
        ),
        (
            "text_encoders.clip_g.transformer.text_model.encoder.layers.3.mlp.fc2",
            "text_encoder_2.text_model.encoder.layers.3.mlp.fc2",
        ),
        (
            "lora_te2_text_model_encoder_layers_11_self_attn_out_proj",
            "text_encoder_2.text_model.encoder.layers.11.self_attn.out_proj",
        ),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1", "text_encoder.text_model.encoder.layers.0.mlp.fc1"),
    ],
)
def test_layers_of_clip_are_written_under_the_names_of_diffusers(name, in_file, tmp_path):
    save(Adapter({name: SHUFFLED}), tmp_path / "x.safetensors", "diffusekrona")
    assert set(load_file(tmp_path / "x.safetensors")) == {
        f"{in_file}.lora_linear_layer.{part}.weight" for part in ("down", "up")
    }


def without(tensors, text):
    return {key: value for key, value in tensors.items() if text not in key}


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        (stable_diffusion(), None),
        (stable_diffusion(projections=("q", "v")), None),  # the loader is told which
        (without(stable_diffusion(), "mid_block"), "it has 30 of the 32 attentions of SD 1 or 2"),
        (without(stable_diffusion(), "attn2"), "it has 16 of the 32 attentions"),
        (without(stable_diffusion(), "up_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_k"), "has to_out, to_q, to_v, and most"),
        ({k: v for k, v in stable_diffusion(text=True).items() if "text" in k}, "it has no layer of the UNet's attentions"),
        ({k.replace("mid_block", "down_blocks.7"): v for k, v in stable_diffusion().items() if "mid_block.attentions.0.transformer_blocks.0.attn1" in k},
         "but not down_blocks.7.attentions.0.transformer_blocks.0.attn2.processor"),
    ],
)  # fmt: skip
def test_a_part_of_the_attentions_is_told_on_reading_and_on_writing(tensors, reason, tmp_path):
    """Their loader makes a processor for each attention in the file,
    and diffusers 0.21 wants one for every attention."""
    save_file(tensors, tmp_path / "x.safetensors")
    adapter = load(tmp_path / "x.safetensors")
    encoded = encode(adapter, "diffusekrona")
    notes = [*adapter.notes[1:], *encoded.notes]
    assert len(notes) == (0 if reason is None else 2)
    assert all(str(reason) in note for note in notes)


@pytest.mark.parametrize(("family", "count"), [("SD 1 or 2", 32), ("SDXL", 140), ("SDXL's refiner", 88), ("SSD-1B", 68),
                                               ("Segmind Vega", 30), ("KOALA-700M", 42), ("KOALA-1B", 60)])  # fmt: skip
def test_the_families_have_as_many_attentions_as_their_unets(family, count):
    """What ComfyUI's own classes have (docs/formats.md), divided by four projections."""
    assert len(set(_processors(_BLOCKS[family]))) == count
