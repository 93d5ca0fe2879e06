"""A run.yaml from a stranger: whatever is in it, settings come out or an error of ours, at once and in little memory."""

import resource
import time

import pytest
import yaml

from krona_ops.errors import ConfigError
from krona_train.config import TrainConfig, from_yaml
from krona_train.settings.plain_yaml import read


def bomb(depth, inner="x"):
    first = f"&a0 [{','.join([inner] * 9)}]"
    return f"name: [{first}" + "".join(f", &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, depth)) + "]"


MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{','.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12))
REFUSED = {
    "aliases of aliases": (bomb(11), r"more than 20,000 values.* in line 1"),
    "merges of merges": (MERGES, r"more than 20,000 values"),
    "an alias of itself": ("a: &a [*a]", "an alias inside of what it stands for in line 1, column 8"),
    "many values": (f"a: [{'1,' * 30_000}]", "more than 20,000 values"),
    "many names": ("".join(f"a{n}: 1\n" for n in range(15_000)), "more than 20,000 values"),
    "deep lists": ("a: " + "[" * 5000, "more than 20 deep"),
    "deep mappings": ("{a: " * 5000, "more than 20 deep"),
    "deep blocks": ("".join("  " * n + "a:\n" for n in range(300)), "more than 20 deep"),
    "much text": ("a: " + "x" * 300_000, "too large for settings: 300,003 characters"),
    "a day": ("a: !!timestamp x", "the tag tag:yaml.org,2002:timestamp is not read in line 1, column 4"),
    "a truth": ("a: !!bool x", "the tag tag:yaml.org,2002:bool is not read"),
    "a number": ("a: !!int x", "the tag tag:yaml.org,2002:int is not read"),
    "a fraction": ("a: !!float x", "the tag tag:yaml.org,2002:float is not read"),
    "nothing": ("a: !!null x", "the tag tag:yaml.org,2002:null is not read"),
    "bytes": ("a: !!binary x", "the tag tag:yaml.org,2002:binary is not read"),
    "a set": ("a: !!set {x}", "the tag tag:yaml.org,2002:set is not read"),
    "pairs": ("a: !!omap [x]", "the tag tag:yaml.org,2002:omap is not read"),
    "a tag of another kind": ("!!seq {a: 1}", "the tag tag:yaml.org,2002:seq is not read"),
    "a tag for a name": ("!!int x: 1", "the tag tag:yaml.org,2002:int is not read"),
    "Python": ("a: !!python/name:os.system x", "could not determine a constructor"),
    "a number of ten thousand digits": (f"a: {'9' * 10_000}", "a number of 10,000 digits"),
    "a number of five thousand digits": (f"a: {'9' * 5_000}", "no YAML of settings: Exceeds the limit"),
    "half a character": (r'a: "\ud800"', "half a character that no text can hold"),
    "half a character in a name": (r'"\udfff": 1', "half a character that no text can hold"),
    "a name twice": ("a: 1\nb: 2\na: 3", "a is named twice in line 3"),
    "a number of six thousand digits for a name": (f"a:\n  ? 0x{'f' * 5_000}\n  : 1", "no YAML of settings: Exceeds the limit"),
    "a list for a name": ("? [a]\n: 1", "unhashable key"),
    "a day that no month has": ("a: 2024-02-30", "no YAML of settings: day is out of range"),
    "an hour that no day has": ("a: 2024-02-01 99:00:00", "no YAML of settings: hour must be in"),
    "two documents": ("a: 1\n---\nb: 2", "found another document in line 2"),
    "a list": ("[1]", "holds no settings"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_more_than_settings_or_none_is_refused(what):
    text, message = REFUSED[what]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    with pytest.raises(ConfigError, match=message) as error:
        read(text)
    assert time.process_time() - began < 15  # a second where nothing else runs; without the limits hours
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 64_000
    assert len(str(error.value)) < 500
    assert str(error.value).isprintable()


def test_aliases_merges_and_plain_tags_that_are_little_mean_what_they_mean():
    assert read("a: &x {k: 1}\nb: *x\nc: {<<: *x, l: 2}\nd: !!str 5") == {
        "a": {"k": 1},
        "b": {"k": 1},
        "c": {"k": 1, "l": 2},
        "d": "5",
    }
    text = "optimizer: &o {learning_rate: 1e-3}\nema: {decay: 0.5}"
    assert from_yaml(text, TrainConfig).optimizer.learning_rate == 1e-3
    assert read("") == read("{}") == {}


def test_a_thousand_target_rules_are_settings():
    rules = [{"factors": [8, 4], "pattern": f"blocks.{n}.", "rate": 0.5} for n in range(1000)]
    assert read(yaml.safe_dump({"adapter": {"targets": rules}}))["adapter"]["targets"] == rules


def test_what_a_name_is_called_cannot_write_to_a_terminal():
    with pytest.raises(ConfigError, match=r"There is no setting \\x1b\[31mx") as error:
        from_yaml(r'"\e[31mx": 1', TrainConfig)
    assert str(error.value).isprintable()
