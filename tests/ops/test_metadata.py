"""What a file says about itself, as managers and pages show it: nothing in a hostile one raises."""

import base64
import json

import pytest

from krona_ops.formats.metadata import description_of, picture_type, thumbnail_in, title_of, trigger_words
from krona_ops.names.families import base_of, whole_model

PNG = b"\x89PNG\r\n\x1a\n and so on"


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({}, ()),
        ({"modelspec.trigger_phrase": " sks dog, red "}, ("sks dog, red",)),
        ({"modelspec.trigger_phrase": " ", "ss_tag_frequency": '{"10_a": {"sks": 5, "dog": 3}}'}, ("sks",)),
        ({"ss_tag_frequency": '{"10_a": {" sks ": 2, "dog": 3}, "5_b": {"sks": 1}}'}, ("sks", "dog")),
        ({"ss_tag_frequency": json.dumps({"a": {f"tag {n}": 4 for n in range(9)}})}, ("tag 0", "tag 1", "tag 2")),
    ],
)
def test_trigger_words_are_the_phrase_or_what_was_trained_most_often(metadata, words):
    assert trigger_words(metadata) == words


@pytest.mark.parametrize(
    "text",
    ["", "no JSON", "[" * 100_000, "[1]", '"a"', '{"a": 1}', '{"a": {"b": "c"}}', '{"a": {"b": -1, "": 3}}', '{"a": null}'],
)
def test_tags_that_make_no_sense_are_no_trigger_words(text):
    assert trigger_words({"ss_tag_frequency": text}) == ()


def test_title_and_description_are_the_specs_or_kohyas():
    kohya = {"ss_output_name": "robot", "ss_training_comment": "a comment"}
    spec = {"modelspec.title": "The robot", "modelspec.description": "A description"}
    assert [(title_of(metadata), description_of(metadata)) for metadata in (kohya | spec, kohya, {})] == [
        ("The robot", "A description"), ("robot", "a comment"), ("", ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (PNG, "image/png"), (b"\xff\xd8\xff\xe0", "image/jpeg"), (b"GIF89a", "image/gif"), (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"RIFF\0\0\0\0WAVE", None), (b"RIFF", None), (b"<svg>", None), (b"", None),
    ],
)  # fmt: skip
def test_pictures_are_told_by_their_first_bytes(data, kind):
    assert picture_type(data) == kind


@pytest.mark.parametrize(
    ("text", "picture"),
    [
        (f"data:image/png;base64,{base64.b64encode(PNG).decode()}", PNG),
        (f"data:image/jpeg;base64,{base64.b64encode(PNG).decode()}", PNG),
        (f"data:text/html;base64,{base64.b64encode(PNG).decode()}", None),
        (f"data:image/png;base64,{base64.b64encode(PNG * 100).decode()}", None),
        ("data:image/png;base64,%%%", None),
        ("data:image/png;base64,äö", None),
        (f"data:image/svg+xml;base64,{base64.b64encode(b'<svg>').decode()}", None),
        ("file:///etc/passwd", None),
        ("", None),
    ],
)
def test_a_thumbnail_is_a_picture_that_is_not_too_large_or_none(text, picture):
    assert thumbnail_in({"modelspec.thumbnail": text}, 1000) == picture


SDXL = {"lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (640, 2048)}


@pytest.mark.parametrize(
    ("metadata", "shapes", "base"),
    [
        ({"ss_base_model_version": "sd_v1"}, SDXL, "SD1.5"),
        ({"ss_base_model_version": "Lumina2"}, SDXL, "Lumina2"),
        ({"modelspec.architecture": "flux-1-dev/lora"}, {}, "flux-1-dev"),
        ({}, SDXL, "SDXL"),
        ({}, {"lora_unet_something_else": (3, 5)}, ""),
        ({}, {}, ""),
    ],
)
def test_the_base_model_is_what_the_file_says_else_what_its_layers_tell(metadata, shapes, base):
    assert base_of(metadata, shapes) == base


def test_a_whole_model_is_known_by_its_weights():
    name = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k"
    assert (
        whole_model({f"{name}.weight": (640, 2048), "first_stage_model.x.bias": (3,)})
        == "SDXL (cross attention width 2048)"
    )
    assert whole_model({f"{name}.lora_A": (640, 2048)}) is None
    assert whole_model({"something.weight": (3, 5)}) is None
