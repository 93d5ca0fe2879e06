"""The border: texts from strangers become plain typed values under limits, or the border's own error."""

import json
import math

import pytest

from krona_ops.border import Border, Limits, finite
from krona_ops.errors import ConfigError, KronaError
from krona_ops.shown import printable, shown

BORDER = Border("rows.json", ConfigError, "Get the file again.", Limits(size=10_000, depth=5, values=100, digits=12))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        -(10**10),
        0.5,
        "a\u00e9\U0001f600",
        [1, [2, [3, [4, [5]]]]],
        {"a": {"b": ["[[[[[[[[", '"]{', "\\"]}},
        list(range(90)),
    ],
)
def test_what_is_within_the_limits_is_what_json_says(value):
    text = json.dumps(value)
    assert BORDER.json(text) == value
    assert BORDER.json(text.encode()) == value
    assert BORDER.tree(value) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[[[[[[1]]]]]]", "6 deep, 5 are allowed"),
        ("[" * 50, "50 deep"),
        ('{"a":' * 9 + "1" + "}" * 9, "9 deep"),
        ("[" + "1," * 100 + "1]", "values, 100 are allowed"),
        ("[" + "{}," * 60 + "1]", "values, 100 are allowed"),
        ('"' + "a" * 10_000 + '"', "10,002 bytes, 10,000 are allowed"),
        ("1" * 13, "a number of 13 digits"),
        ("-" + "9" * 400, "a number of 401 digits"),
        ("1e999", "too large"),
        ("[NaN]", "NaN is no number"),
        ("[-Infinity]", "Infinity is no number"),
        ("{", "Expecting"),
        ("", "Expecting"),
        ('"' + '\\"' * 3000, "Unterminated"),
    ],
)
def test_what_is_not_is_refused_by_name(text, reason):
    with pytest.raises(ConfigError, match=reason) as caught:
        BORDER.json(text, "the row")
    assert str(caught.value).startswith("rows.json: the row cannot be read as JSON: ")
    assert str(caught.value).endswith("Get the file again.")


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(ConfigError, match="utf-8"):
        BORDER.json(b'"\xff"')


def test_a_border_may_let_numbers_pass_that_are_none():
    assert BORDER.json("[1e999, Infinity]", allow_nan=True) == [math.inf, math.inf]
    assert math.isnan(BORDER.json("NaN", allow_nan=True))


def test_a_tree_of_aliases_counts_each_time_that_it_is_reached():
    level = [1]
    for _ in range(4):
        level = [level] * 9
    with pytest.raises(ConfigError, match="too large"):
        BORDER.tree(level)
    circle = []
    circle.append(circle)
    with pytest.raises(ConfigError, match="too large"):
        BORDER.tree(circle)
    with pytest.raises(ConfigError, match="digits"):
        BORDER.tree({"a": 10**400})


@pytest.mark.parametrize(
    ("ask", "good", "bad"),
    [
        (lambda b, v: b.integer(v, "steps", 0, 10), [0, 10, 3.0], [-1, 11, 3.5, True, "3", None, [3], 10**400, math.nan, math.inf]),
        (lambda b, v: b.integer(v, "steps"), [2**63 - 1], [2**63, -(2**63) - 1]),
        (lambda b, v: b.number(v, "rate", 0, 2), [0, 2, 0.5], [-0.1, 3, True, "1", None, math.nan, math.inf, 10**400, {}]),
        (lambda b, v: b.number(v, "rate"), [-1e300], [10**400]),
        (lambda b, v: b.text(v, "name", 5), ["", "abcde"], ["abcdef", 3, None, b"a", ["a"], "\ud800"]),
        (lambda b, v: b.choice(v, "kind", ("a", "b")), ["a"], ["c", None, [], {}]),
        (lambda b, v: b.truth(v, "switch"), [True, False], [0, 1, "true", None]),
        (lambda b, v: b.mapping(v, "row", 2), [{}, {"a": 1}], [[], None, "a", {1: 2}, {"a": 1, "b": 2, "c": 3}]),
        (lambda b, v: b.sequence(v, "rows", 2), [[], [1, 2], (1,)], [{}, None, "ab", [1, 2, 3]]),
    ],
)  # fmt: skip
def test_a_value_is_of_the_type_that_is_asked_for_or_refused(ask, good, bad):
    for value in good:
        answer = ask(BORDER, value)
        assert answer == (list(value) if isinstance(value, tuple) else value)
    for value in bad:
        with pytest.raises(ConfigError) as caught:
            ask(BORDER, value)
        assert caught.value.where == "rows.json"
        assert len(str(caught.value)) < 300


def test_numbers_are_finite_or_none():
    assert finite(3) == 3.0
    assert finite(1e300) == 1e300
    assert [finite(value) for value in (True, "3", None, math.nan, -math.inf, 10**400, [])] == [None] * 7


def test_what_is_shown_is_short_and_obeyed_by_nothing():
    assert shown("to_q") == "to_q"
    assert printable("Größe 3 × 4 ⊗ 5 → ‖ΔW‖ …") == "Größe 3 × 4 ⊗ 5 → ‖ΔW‖ …"
    assert shown("\x1b]0;x\x07\u202e\ud800\n") == r"\x1b]0;x\x07\u202e\ud800\n"
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"
    loop = {}
    loop["a"] = loop
    for value in (
        "\x1b" * 10**6,
        "x" * 10**7,
        10**100_000,
        [[1] * 10**6] * 9,
        loop,
        b"\x00" * 10**6,
        {("y" * 10**6): 1},
        {1, 2},
        None,
        1.5,
    ):
        text = shown(value)
        assert len(text) <= 80
        assert text.isprintable()
    assert shown("head" * 30 + "tail" * 30, 12) == "headhe…ltail"


def test_every_border_raises_what_it_was_given():
    assert issubclass(Border().error, KronaError)
    with pytest.raises(ConfigError):
        Border(error=ConfigError).json("x")
