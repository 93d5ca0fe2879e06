"""Target rules as a person writes them."""

import pytest

from krona_ops import TargetRule
from krona_ops.errors import ConfigError
from krona_ops.targets.text import parse_factors, parse_rules


def test_what_is_left_out_is_usual():
    text = """
    attn2; k, v; 64x8; 2.0   # the words
    ff\\.net; *; 16 × 2
    ; q,out

    # nothing here
    middle_block
    """
    usual = TargetRule().projections
    assert parse_rules(text, (32, 4)) == (
        TargetRule((64, 8), ("k", "v"), "attn2", 2.0),
        TargetRule((16, 2), (), "ff\\.net"),
        TargetRule((32, 4), ("q", "out")),
        TargetRule((32, 4), usual, "middle_block"),
    )
    assert parse_rules("  \n# all off\n", (64, 4)) == ()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("attn2; k; 64", r"rule 2: '64' is no pair of factors.*rows of A"),
        ("attn2; kq", r"rule 2: There is no projection 'kq'.*Write \*"),
        ("attn2; k; 64x4; fast", r"rule 2: 'fast' is no number"),
        ("attn2; k; 64x4; 1; lora; 2", r"rule 2: It has 6 parts"),
        ("attn(2; k", r"rule 2: The layer pattern \"attn\(2\" is no regular expression"),
        ("attn2; k; 0x4", r"rule 2: Factors 0 × 4 are not possible"),
        ("attn2; k; 8x4; -1", r"rule 2: rate is -1\.0; it must be from 0 to 1000"),
        ("attn2; k; 8x4; nan", r"rule 2: rate is nan; it must be from 0 to 1000"),
    ],
)
def test_a_wrong_line_is_named(line, message):
    with pytest.raises(ConfigError, match=message):
        parse_rules(f"attn1\n{line}", (64, 4))


def test_factors_are_out_times_in():
    assert parse_factors(" 64 x 4", "here") == (64, 4)
    with pytest.raises(ConfigError, match="here: '64,4' is no pair of factors"):
        parse_factors("64,4", "here")


def test_a_rule_may_say_what_is_trained_and_the_factors_of_each_product_of_a_sum():
    kinds = ("sum", "difference")
    assert parse_rules("attn1; q; 64x4 + 8×2+3x5; 0.5; sum\nnorm; *; ; ; difference", (32, 4), kinds) == (
        TargetRule((64, 4), ("q",), "attn1", 0.5, "sum", ((8, 2), (3, 5))),
        TargetRule((32, 4), (), "norm", kind="difference"),
    )
    assert parse_rules(";;;; of my own", (32, 4)) == (TargetRule((32, 4), kind="of my own"),)
    with pytest.raises(ConfigError, match=r"rule 2: There is no kind 'differnce'.*Write one of these"):
        parse_rules("attn1\nnorm; *; ; ; differnce", (32, 4), kinds)
    with pytest.raises(ConfigError, match=r"rule 1: '' is no pair of factors"):
        parse_rules("; ; 64x4 +; ; sum", (32, 4), kinds)
