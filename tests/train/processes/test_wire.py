"""Events as lines of text: each comes out as it went in, and no line, however hostile, raises."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_loop import config, examples

from krona_ops import Adapter
from krona_ops.errors import NonFiniteError, TrainingError
from krona_train import fit
from krona_train.backbone.toy import ToyBackbone
from krona_train.config import ValidationConfig
from krona_train.processes.wire import from_line as read_line
from krona_train.processes.wire import to_line
from krona_train.run.events import EVENTS, Ended, Event, Noted, Previewed, Saved, Started, Stepped, Validated, Watcher
from krona_train.run.folder import Run

NOWHERE = Path("no folder")


def from_line(line, folder=NOWHERE):
    return read_line(line, folder)


TEXT = 'one line\nanother "quoted"\u2028 × σ 🤖 \x00'
PLAIN = (
    Started(500, 0, 8, 6368, ("a note", TEXT)),
    Started(1, 0, 0, 0, ()),
    Started(1, 0, 0, 0, (), ("critic", "fake")),
    Stepped(3, 500, 0.1 + 0.2, 5e-324, 1e-4, 12.5),
    Stepped(3, 500, math.inf, -0.0, 0.0, 1e300, 2**40),
    Stepped(3, 500, 0.5, 0.25, 1e-4, 12.5, 7, {"critic": 0.125}),
    Noted(7, TEXT),
    Validated(4, 1 / 3, True, None),
    Validated(4, 2.0, False, None),
    Ended(5, 5, None, None, None),
)


@pytest.mark.parametrize("event", PLAIN, ids=lambda event: type(event).__name__)
def test_every_event_comes_out_of_its_line_as_it_went_in(event, tmp_path):
    line = to_line(event)
    assert "\n" not in line
    assert line.isascii()  # whatever the encodings of the two processes are
    back = from_line(line + "\n", tmp_path)
    assert back == event
    assert repr(back) == repr(event)


def test_a_loss_that_is_not_a_number_stays_so(tmp_path):
    assert math.isnan(from_line(to_line(Stepped(1, 2, math.nan, 0.0, 0.0, 0.0))).loss)


def test_previews_travel_as_the_files_that_the_runs_folder_has(tmp_path):
    pictures = tuple(Image.new("RGB", (5, 7), color) for color in ("red", "blue"))
    event = Previewed(12, pictures)
    run = Run(tmp_path, config(), {})
    run(event)
    back = from_line(to_line(event), tmp_path)
    assert back.step == 12
    assert [picture.tobytes() for picture in back.pictures] == [picture.tobytes() for picture in pictures]


def test_a_preview_whose_file_is_gone_or_no_picture_is_no_event(tmp_path):
    line = to_line(Previewed(12, (Image.new("RGB", (5, 7)),)))
    assert from_line(line, tmp_path) is None
    (tmp_path / "previews").mkdir()
    (tmp_path / "previews" / "step-000012-1.png").write_bytes(b"no picture")
    assert from_line(line, tmp_path) is None


def test_a_preview_names_no_file_elsewhere(tmp_path):
    Image.new("RGB", (5, 7)).save(tmp_path / "other.png")
    (tmp_path / "previews").mkdir()
    for name in ("../other.png", str(tmp_path / "other.png"), "step-000013-1.png"):
        assert from_line(json.dumps({"krona.event": "preview", "step": 12, "pictures": [name]}), tmp_path) is None


def test_a_training_that_was_stopped_has_not_failed():
    back = from_line(to_line(Ended(6, 9, None, None, KeyboardInterrupt())))
    assert isinstance(back.error, KeyboardInterrupt)
    assert str(back.error) == "It was stopped after step 6."
    assert back.row() == Ended(6, 9, None, None, KeyboardInterrupt()).row()


def test_errors_travel_as_their_text(tmp_path):
    known = NonFiniteError("The loss became nan.", where="step 7", remedy="Lower the learning rate.")
    back = from_line(to_line(Ended(6, 9, None, None, known)))
    assert type(back.error) is TrainingError
    assert (back.step, back.steps, str(back.error)) == (6, 9, str(known))
    nameless = from_line(to_line(Ended(6, 9, None, None, MemoryError())))
    assert str(nameless.error) == "MemoryError: "
    assert str(from_line(to_line(Ended(6, 9, None, None, KeyError("x")))).error) == "KeyError: 'x'"


def test_adapters_and_states_stay_in_the_folder(tmp_path):
    events = []
    settings = config(steps=2, save_every=1, validation=ValidationConfig(every=1, levels=1))
    adapter = fit(ToyBackbone(), examples(), settings, events.append)
    assert [to_line(event) for event in events if isinstance(event, Saved)] == [None]
    [validated, *_] = [event for event in events if isinstance(event, Validated)]
    assert isinstance(validated.adapter, Adapter)
    assert from_line(to_line(validated)) == dataclasses.replace(validated, adapter=None)
    assert from_line(to_line(Ended(2, 2, adapter, events[-1].state))) == Ended(2, 2, None, None)


OTHERS = {
    "nothing": "",
    "text": "loaded completely;  52.03 MB loaded, full load: True",
    "a number": "3",
    "a list": "[1, 2]",
    "another library's JSON": '{"loss": 1.0, "step": 3}',
    "half an event": '{"krona.event": "step", "step": 3, "st',
    "an event after other text": 'x {"krona.event": "note", "step": 1, "text": "a"}',
    "a kind that is not known": '{"krona.event": "exploded", "step": 3}',
    "a kind that does not travel": '{"krona.event": "saved", "step": 3, "adapter": true}',
    "a kind that is no name": '{"krona.event": ["note"], "step": 3}',
    "a field too many": '{"krona.event": "note", "step": 1, "text": "a", "more": 2}',
    "a field too few": '{"krona.event": "note", "step": 1}',
    "fields of other types": '{"krona.event": "note", "step": "1", "text": "a"}',
    "a truth for a number": '{"krona.event": "note", "step": true, "text": "a"}',
    "a number for a truth": '{"krona.event": "validation", "step": 1, "validation": 1.0, "best": 1}',
    "an object for a text": '{"krona.event": "ended", "step": 1, "steps": 2, "error": {"a": 1}, "stopped": false}',
    "a list for a text": '{"krona.event": "started", "steps": 1, "step": 0, "layers": 1, "parameters": 2, "notes": [1]}',
    "a picture without a name": '{"krona.event": "preview", "step": 1, "pictures": [""]}',
    "a picture that is a folder": '{"krona.event": "preview", "step": 1, "pictures": ["/"]}',
    "a picture with a zero in its name": '{"krona.event": "preview", "step": 1, "pictures": ["a\\u0000b"]}',
    "a text for the pictures": '{"krona.event": "preview", "step": 1, "pictures": "abc"}',
    "a depth without end": "[" * 100_000,
    "a number without end": "9" * 10_000,
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_line_of_something_else_is_no_event(what):
    assert from_line(OTHERS[what]) is None


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(sorted({"step", *(name for kind in EVENTS for name in (*kind.FIELDS, *kind.SOMETIMES))}))
kinds = st.sampled_from([kind.NAME for kind in EVENTS])


@settings(max_examples=200, deadline=None)
@given(kinds, st.dictionaries(names, values, max_size=7))
def test_an_event_with_anything_in_its_fields_is_an_event_or_none(kind, fields):
    event = from_line(json.dumps({"krona.event": kind, **fields}))
    assert event is None or kind == event.NAME


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(PLAIN), st.data())
def test_a_damaged_line_is_an_event_or_none(event, data):
    line = to_line(event)
    start = data.draw(st.integers(0, len(line)))
    end = data.draw(st.integers(start, len(line)))
    back = from_line(line[:start] + data.draw(st.text(max_size=5)) + line[end:])
    assert back is None or isinstance(back, Event)


def test_each_event_reaches_the_method_of_its_name_and_no_other():
    calls = []

    class Noting(Watcher):
        def __getattribute__(self, name):
            if not name.startswith("_"):
                calls.append(name)
            return super().__getattribute__(name)

    state = fit_state()
    events = (*PLAIN, Previewed(1, ()), Saved(state))
    for event in events:
        Noting()(event)
    assert calls == [type(event).__name__.lower() for event in events]
    assert {type(event) for event in events} == set(EVENTS)


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.NAME)
def test_a_row_has_the_fields_that_its_kind_names(kind):
    state = fit_state()
    other = {"critic": Adapter({})}
    least = {Started: Started(1, 0, 0, 0, ()), Previewed: Previewed(1, ()), Saved: Saved(state)}
    most = {Started: Started(1, 0, 0, 0, (), ("critic",)), Saved: Saved(state, None, other)}
    most[Ended] = Ended(1, 2, None, None, None, other)
    most[Stepped] = Stepped(1, 2, 0.5, 0.5, 1e-4, 1.0, 0, {"critic": 0.5})
    least[Stepped] = dataclasses.replace(most[Stepped], losses={})
    plain = {type(event): event for event in PLAIN}
    assert (least.get(kind) or dataclasses.replace(plain[kind])).row().keys() - {"others"} == {"event", "step", *kind.FIELDS}
    for name in kind.SOMETIMES:
        assert "critic" in most[kind].row()[name]


def fit_state():
    kept = []
    fit(ToyBackbone(), examples(), config(steps=2, save_every=1), kept.append)
    return next(event.state for event in kept if isinstance(event, Saved))
