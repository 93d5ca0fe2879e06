"""Strings that are scanned in pieces say what the library's own scanner reads in them."""

import json
import random
from json.decoder import scanstring

import pytest

from krona_ops.formats import json_string
from krona_ops.formats.json_string import scan

PARTS = ["a", "ä", "語", "\\\\", '\\"', "\\n", "\\u00e4", "\\ud83d\\ude00", "\\ud83d", "\\ude00", "ud83d", "\\/", "u"]


def outcome(scanner, text):
    try:
        return scanner(text)
    except ValueError:
        return ValueError


@pytest.fixture(params=[(7, 16), (2**12, 2**20)], ids=["short pieces", "its own"])
def pieces(request, monkeypatch):
    monkeypatch.setattr(json_string, "_FIRST", request.param[0])
    monkeypatch.setattr(json_string, "_MOST", request.param[1])


@pytest.mark.parametrize("end", ['"', '",":', "", "\\", "\\u12", "\n", '\\x"'], ids=repr)
def test_a_string_of_anything_is_what_the_library_reads(pieces, end):
    draw = random.Random(7)
    for length in range(120):
        text = '{"' + "".join(draw.choice(PARTS) for _ in range(length)) + end
        assert outcome(lambda t: scan(t, 2), text) == outcome(lambda t: scanstring(t, 2, True), text), text


@pytest.mark.parametrize("part", ["\\\\", "\\ud83d\\ude00", '\\"', "x", "\\u00e4", "x\\ud83d\\ude00", "\\\\\\ud83d"])
def test_long_strings_are_too(part):
    for shift in range(13):
        text = "y" * shift + part * (3_000_000 // len(part))
        assert scan(text + '" and more', 0) == scanstring(text + '" and more', 0, True)


def test_a_short_string_ends_before_a_long_one():
    assert scan(json.dumps(["a", "b" * 10_000_000]), 2) == ("a", 4)
