"""CLIP-I, CLIP-T and DINO against their formulas on tiny models of the same classes, and how pictures and prompts go together."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from krona_ops.errors import AdapterFileError, ConfigError, DataError
from krona_train.__main__ import main
from krona_train.evaluation import Scores, evaluate
from krona_train.evaluation.clip_dino import CLIP, DINO, ClipDinoJudge
from krona_train.evaluation.measures import spread_over, without
from krona_train.evaluation.prompts import PROMPTS, dreambooth_prompts
from krona_train.evaluation.sheet import score_sheet

SIDE = 32


@pytest.fixture(scope="session")
def judges_folder(tmp_path_factory, comfy):
    """Random models with a few weights, written as their users get them; the words are CLIP's own, which the host has."""
    folder = tmp_path_factory.mktemp("judges")
    torch.manual_seed(0)
    shared = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
    clip = transformers.CLIPConfig(
        text_config={**shared, "vocab_size": 49408, "max_position_embeddings": 77, "eos_token_id": 49407},
        vision_config={**shared, "image_size": SIDE, "patch_size": 8},
        projection_dim=16,
    )
    transformers.CLIPModel(clip).save_pretrained(folder / CLIP)
    words = Path(comfy.__path__[0]) / "sd1_tokenizer"
    for name in ("vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"):
        shutil.copy(words / name, folder / CLIP / name)
    transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(
        folder / CLIP
    )
    transformers.ViTModel(transformers.ViTConfig(**shared, image_size=SIDE, patch_size=8)).save_pretrained(folder / DINO)
    transformers.ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder / DINO)
    return folder


def pictures(count, seed, height=SIDE, width=SIDE):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (count, height, width, 3)).astype(np.float32) / 255)


def normalised(images, mean, std):
    """As the processors' settings say, for pictures that are of the right size already."""
    return (images.permute(0, 3, 1, 2) - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def unit(vectors):
    return vectors / vectors.norm(dim=1, keepdim=True)


def test_the_measures_are_the_mean_cosines_of_the_paper(judges_folder):
    images, references = pictures(4, 1), pictures(3, 2)
    prompts = ["a photo of sks dog", "a sks dog in the snow"]
    scores = evaluate(ClipDinoJudge(judges_folder), images, references, prompts, "sks")

    clip = transformers.CLIPModel.from_pretrained(judges_folder / CLIP).eval()
    dino = transformers.ViTModel.from_pretrained(judges_folder / DINO, add_pooling_layer=False).eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(judges_folder / CLIP)
    clip_mean, clip_std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    told = tokenizer(
        ["a photo of dog", "a photo of dog", "a dog in the snow", "a dog in the snow"], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        seen = clip(pixel_values=normalised(images, clip_mean, clip_std), **told)
        real = clip(pixel_values=normalised(references, clip_mean, clip_std), **told)
        classes = [dino(normalised(x, [0.5] * 3, [0.5] * 3)).last_hidden_state[:, 0] for x in (images, references)]
    expected = {
        "CLIP-I": (unit(seen.image_embeds) @ unit(real.image_embeds).T).mean(),
        "DINO": (unit(classes[0]) @ unit(classes[1]).T).mean(),
        "CLIP-T": (unit(seen.image_embeds) * unit(seen.text_embeds)).sum(1).mean(),
    }
    means = scores.means()
    assert means.keys() == expected.keys()
    for name, value in expected.items():
        assert means[name] == pytest.approx(float(value), abs=2e-5), name
    assert scores.prompts == ("a photo of sks dog",) * 2 + ("a sks dog in the snow",) * 2
    assert scores.likeness["DINO"].shape == (4, 3)


def test_pictures_of_different_sizes_are_judged_each_by_itself(judges_folder):
    judge = ClipDinoJudge(judges_folder)
    mixed = [pictures(1, 3, 40, 64)[0], pictures(1, 4)[0]]
    together = judge.see(mixed)
    for name, vectors in together.items():
        for n, image in enumerate(mixed):
            assert torch.allclose(vectors[n], judge.see([image])[name][0], atol=1e-5)
    assert not torch.allclose(together["DINO"][0], together["DINO"][1], atol=1e-3)


def test_what_is_missing_is_said_with_how_to_get_it(judges_folder, tmp_path):
    with pytest.raises(ConfigError, match="no clip-vit-base-patch32 to judge with") as caught:
        ClipDinoJudge(tmp_path)
    assert caught.value.found == "no such folder"
    assert 'from_pretrained("openai/clip-vit-base-patch32").save_pretrained(' in str(caught.value)
    shutil.copytree(judges_folder / CLIP, tmp_path / CLIP)
    (tmp_path / DINO).mkdir()
    (tmp_path / DINO / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ConfigError, match="could run any program and is not opened"):
        ClipDinoJudge(tmp_path)
    (tmp_path / DINO / "model.safetensors").write_bytes(b"")
    with pytest.raises(AdapterFileError, match="dino-vits16"):
        ClipDinoJudge(tmp_path)
    shutil.copy(judges_folder / DINO / "model.safetensors", tmp_path / DINO / "model.safetensors")
    with pytest.raises(ConfigError, match="transformers cannot load a ViT"):
        ClipDinoJudge(tmp_path)


def test_prompts_are_shared_out_in_order():
    assert spread_over(["a", "", " b "], 4) == ("a", "a", "b", "b")
    assert spread_over(["a"], 3) == ("a",) * 3
    for prompts, count in ((["a", "b"], 3), ([], 2)):
        with pytest.raises(DataError, match="do not go with"):
            spread_over(prompts, count)


def test_only_the_whole_trigger_word_is_taken_out():
    assert without("a photo of sks dog", "sks") == "a photo of dog"
    assert without("a sksdog, sks, sks dog", "sks") == "a sksdog, dog"
    assert without("a my toy on a table", "my toy") == "a on a table"
    assert without("a dog", "") == "a dog"


def test_means_leave_out_what_a_prompt_says_nothing_of():
    scores = Scores({"subject": torch.tensor([[0.5, 0.7], [0.1, 0.3]])}, {"pose": torch.tensor([1.0, torch.nan])}, ("a", "b"))
    assert scores.means() == pytest.approx({"subject": 0.4, "pose": 1.0})
    assert scores.spreads() == pytest.approx({"subject": 0.4 / 2**0.5, "pose": 0.0})
    assert "a (1): subject 0.600, pose 1.000" in scores.table()


def test_no_pictures_are_an_error():
    with pytest.raises(DataError, match="no pictures of the subject"):
        evaluate(None, pictures(1, 0), [], ["a"])


def test_the_dreambooth_protocol_has_25_prompts_of_each_kind():
    for kind, prompts in PROMPTS.items():
        assert len(set(prompts)) == 25
        assert all(prompt.count("{}") == 1 for prompt in prompts)
        assert dreambooth_prompts(kind, "sks cat")[0] == "a sks cat in the jungle"


def test_the_sheet_has_a_tile_for_every_picture_up_to_its_limit():
    images, references = pictures(7, 5, 20, 30), pictures(2, 6)
    scores = Scores({"subject": torch.rand(7, 2)}, {"caption": torch.rand(7)}, ("a photo of a cat",) * 7)
    small = score_sheet(scores, images, references, side=96, columns=4, limit=60)
    smaller = score_sheet(scores, images, references, side=96, columns=4, limit=4)
    assert small.width == smaller.width
    assert (small.height - 4) / 3 == (smaller.height - 4) / 2
    assert len({tuple(p) for p in np.asarray(small).reshape(-1, 3)}) > 100


def test_the_command_judges_folders_and_writes_what_it_found(judges_folder, tmp_path, capsys):
    for name, count in (("drawn", 4), ("real", 2)):
        (tmp_path / name).mkdir()
        for n, picture in enumerate(pictures(count, n_seed := len(name))):
            Image.fromarray((picture.numpy() * 255).round().astype(np.uint8)).save(tmp_path / name / f"{n}.png")
    (tmp_path / "prompts.txt").write_text("a sks dog\na sks dog in the snow\n")
    common = [
        "evaluate",
        "--judges",
        str(judges_folder),
        "--images",
        str(tmp_path / "drawn"),
        "--references",
        str(tmp_path / "real"),
    ]
    common += ["--device", "cpu", "--prompts", str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "out")]
    assert main(common) == 0
    printed = capsys.readouterr().out
    told = json.loads((tmp_path / "out" / "scores.json").read_text())
    expected = evaluate(
        ClipDinoJudge(judges_folder),
        pictures(4, len("drawn")),
        pictures(2, len("real")),
        ["a sks dog", "a sks dog in the snow"],
        "sks",
    )
    assert told["means"] == pytest.approx(expected.means(), abs=1e-6)
    assert len(told["pictures"]) == 4
    assert f"DINO: {told['means']['DINO']:.3f}" in printed
    assert Image.open(tmp_path / "out" / "sheet.png").width > 300
    assert n_seed


def test_the_command_lists_prompts_and_explains_what_is_missing(tmp_path, capsys, caplog):
    assert main(["evaluate", "--dreambooth", "live", "--subject", "sks cat", "--list-prompts"]) == 0
    assert capsys.readouterr().out.splitlines()[10] == "a sks cat wearing a red hat"
    (tmp_path / "empty").mkdir()
    told = [
        "evaluate",
        "--prompt",
        "x",
        "--images",
        str(tmp_path / "empty"),
        "--references",
        str(tmp_path),
        "--judges",
        str(tmp_path),
    ]
    assert main(told) == 2
    assert "no pictures in the folder" in caplog.text
