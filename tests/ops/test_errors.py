"""What an error is about: a layer, a place such as a file, or both."""

import pytest

from krona_ops.errors import LONGEST, ConfigError


@pytest.mark.parametrize(
    ("layer", "where", "text"),
    [
        (None, None, "It is 1. Set it."),
        ("a.b", None, "a.b: It is 1. Set it."),
        (None, "run.yaml", "run.yaml: It is 1. Set it."),
        ("a.b", "x.safetensors", "x.safetensors: a.b: It is 1. Set it."),
        ("", "", "It is 1. Set it."),
    ],
)
def test_the_text_begins_with_the_place_and_the_layer(layer, where, text):
    error = ConfigError("It is 1.", layer=layer, where=where, found=1, expected=2, remedy="Set it.")
    assert str(error) == text
    assert error.reason == "It is 1. Set it."
    assert (error.layer, error.where, error.found, error.expected, error.remedy) == (layer, where, 1, 2, "Set it.")


def test_a_long_name_and_a_long_path_are_shortened():
    error = ConfigError("It is 1.", layer="a" * 9_999, where="b" * 9_999, found=1, expected=2, remedy="Set it.")
    assert len(str(error)) < 2 * LONGEST + 100
