"""YAML from strangers as plain values: texts, numbers, truths, nothing, lists, mappings; no more of them than settings
can be.

What the file says is weighed before anything is built of it: aliases, which make billions of values of a few bytes,
count each time. Tags, which name what a value shall become, are refused: nothing here needs them, and several of YAML's
own fail on values that they do not fit.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping

import yaml

from krona_ops.errors import ConfigError
from krona_ops.shown import shown

MOST_CHARACTERS = 200_000
_MOST_VALUES = 20_000
"""A thousand target rules with all that they can say."""
_DEEPEST = 20
"""Lists and mappings inside one another."""
_MOST_DIGITS = 6000
"""Of a number. Python reads no more than 4300, in other bases than ten also more; what is read is held to its setting's
bounds."""
_BRACKETS = re.compile(rf"(?:[\[{{]\s*){{{2 * _DEEPEST}}}")
_TAG = "tag:yaml.org,2002:"


def read(text: str) -> dict[str, object]:
    """The mapping that a YAML text is, its names as texts; empty where there is nothing in it.

    Raises:
        ConfigError: It is no YAML, no mapping, names something twice, or is more than settings can be; the message says
            where.
    """
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(
            f"The file is too large for settings: {len(text):,} characters.",
            found=len(text),
            expected=f"{MOST_CHARACTERS:,} characters at most",
            remedy="Check that it is the right file.",
        )
    try:
        _require_flat(text)
        values = yaml.load(text, _Loader) or {}  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"The file is no YAML: {_on_one_line(error)}.",
            found="damaged YAML",
            expected="YAML or JSON",
            remedy=_remedy(error),
        ) from error
    except (ValueError, OverflowError) as error:  # such as a day that no month has
        raise ConfigError(
            f"The file is no YAML of settings: {shown(str(error), 160)}.",
            found=type(error).__name__,
            expected="name: value lines",
            remedy="Put texts that look like dates or numbers in quotes.",
        ) from error
    if not isinstance(values, Mapping):
        raise ConfigError(
            "The file holds no settings.",
            found=type(values).__name__,
            expected="name: value lines",
            remedy="See docs/training.md.",
        )
    return dict(values)


def _require_flat(text: str) -> None:
    """Refuse deep brackets before the library reads them: it looks far ahead, as each bracket may begin a name.

    Raises:
        YAMLError: There are more brackets in a row than settings need.
    """
    if deep := _BRACKETS.search(text):
        line, column = text.count("\n", 0, deep.start()), deep.start() - text.rfind("\n", 0, deep.start()) - 1
        mark = yaml.Mark("", deep.start(), line, column, None, deep.start())
        raise _refused(f"lists and mappings are more than {_DEEPEST} deep", mark)


class _Loader(yaml.SafeLoader):
    """PyYAML's own safe loader with limits. They are checked while it reads, so nobody waits for the rest of a large
    file."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._weights: dict[int, int] = {}
        """Number of values in each node that is complete, by the node's ``id``; an alias counts as many again."""
        self._reached = self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next node of the text.

        Raises:
            YAMLError: It has a tag, or goes beyond the limits.
        """
        is_alias, event = self.check_event(yaml.AliasEvent), self.peek_event()
        tag = getattr(event, "tag", None)
        # Only tags that the library knows: it refuses the others itself.
        if tag is not None and tag in self.yaml_constructors and tag != f"{_TAG}str":
            raise _refused(f"the tag {shown(tag)} is not read", event.start_mark)
        before, self._depth = self._reached, self._depth + 1
        self._add(0 if is_alias else 1, event.start_mark)
        node = super().compose_node(parent, index)
        if is_alias:
            if id(node) not in self._weights:
                raise _refused("an alias inside of what it stands for", event.start_mark)
            self._add(self._weights[id(node)], event.start_mark)
        else:
            self._weights[id(node)] = self._reached - before
        self._depth -= 1
        return node

    def _add(self, count: int, mark: yaml.Mark) -> None:
        self._reached += count
        if self._reached > _MOST_VALUES:
            raise _refused(f"there are more than {_MOST_VALUES:,} values, more than settings can be,", mark)
        if self._depth > _DEEPEST:
            raise _refused(f"lists and mappings are more than {_DEEPEST} deep", mark)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> str:
        """The text of a scalar, from which the library makes numbers and truths.

        Raises:
            YAMLError: It holds half a character, or is a number of too many digits.
        """
        value = super().construct_scalar(node)
        if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            what = "half a character that no text can hold (an escape from \\ud800 to \\udfff)"
            raise _refused(what, node.start_mark)
        if node.tag in (f"{_TAG}int", f"{_TAG}float") and len(value) > _MOST_DIGITS:
            raise _refused(f"a number of {len(value):,} digits", node.start_mark)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        """The mapping of a node, its names as texts.

        Raises:
            YAMLError: A name comes twice: its first value would be lost without a word.
            ValueError: A name is a number of more digits than Python writes.
        """
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise _refused(f"{in_short(key.value)} is named twice", key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else "")
        return {str(name): value for name, value in super().construct_mapping(node, deep).items()}


def _refused(what: str, mark: yaml.Mark) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, what, mark)


def in_short(text: str) -> str:
    """What somebody called a setting, on one short line."""
    return shown(" ".join(text[:1000].split()), 60)


def _on_one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    return f"{shown(' '.join(problem.split()), 200)}{place}"


def _remedy(error: yaml.YAMLError) -> str:
    if "escape" in (getattr(error, "problem", None) or ""):
        return "In double quotes a backslash begins an escape: write Windows paths without quotes, or with /."
    return "Correct that line."
