"""What TensorBoard's own reader finds in our log."""

import io
import time

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_loop import config, examples

from krona_train import fit
from krona_train.backbone.toy import ToyBackbone
from krona_train.config import to_yaml
from krona_train.run.events import Ended, Noted, Previewed, Saved, Started, Stepped, Validated
from krona_train.run.tensorboard import TensorBoardLog

START = {"layers": 2, "parameters": 1234, "notes": ("a note",)}


def read(folder):
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()


def scalars(folder, tag):
    return {point.step: pytest.approx(point.value, rel=1e-6) for point in read(folder).Scalars(tag)}


def texts(folder, tag):
    return [b"".join(t.tensor_proto.string_val).decode() for t in read(folder).Tensors(f"{tag}/text_summary")]


def stepped(step, loss):
    return Stepped(step, 10, loss, 2 * loss, 1e-3 * step, 0.1)


def test_a_training_is_all_there(tmp_path):
    settings, seen = config(steps=7), []
    log = TensorBoardLog(tmp_path / "tb", settings)

    def both(event):
        seen.append(event)
        log(event)

    fit(ToyBackbone(), examples(), settings, both)
    steps = [event for event in seen if isinstance(event, Stepped)]
    for tag, field in (("loss/train", "loss"), ("grad_norm", "grad_norm"), ("learning_rate", "learning_rate")):
        assert scalars(tmp_path / "tb", tag) == {event.step: getattr(event, field) for event in steps}
    [shown] = texts(tmp_path / "tb", "settings")
    assert to_yaml(settings) in shown
    [note] = texts(tmp_path / "tb", "notes")
    started = seen[0]
    assert f"{started.parameters:,} parameters in {started.layers} layers" in note


def test_validations_previews_and_notes_are_there(tmp_path):
    log = TensorBoardLog(tmp_path)
    pictures = tuple(Image.new("RGB", (6, 4), color) for color in ((200, 10, 10), (10, 10, 200)))
    for event in (
        Started(10, 0, **START), Validated(0, 0.5, False, None), Validated(5, 0.25, True, None), Previewed(5, pictures),
        Noted(6, "less memory"), Ended(6, 10, None, None, KeyboardInterrupt()),
    ):  # fmt: skip
        log(event)
    assert scalars(tmp_path, "loss/validation") == {0: 0.5, 5: 0.25}
    for number, picture in enumerate(pictures, 1):
        [kept] = read(tmp_path).Images(f"preview/{number}")
        assert kept.step == 5
        assert np.array_equal(Image.open(io.BytesIO(kept.encoded_image_string)), picture)
    assert "a note" in texts(tmp_path, "notes")[0]
    assert texts(tmp_path, "notes")[1] == "less memory"
    assert "KeyboardInterrupt" in texts(tmp_path, "notes")[2]


def test_steps_that_are_done_again_replace_those_lost_in_a_crash(tmp_path):
    lost = TensorBoardLog(tmp_path)
    lost(Started(10, 0, **START))
    for step in range(1, 9):
        lost(stepped(step, float(step)))
        if step == 5:
            lost(Validated(5, 0.5, True, None))
            lost(Saved(None))
    lost(Validated(8, 0.8, False, None))
    lost(Saved(None))  # on the disk, then killed: no end
    again = TensorBoardLog(tmp_path)  # within the same second, too
    again(Started(10, 5, **START))
    for step in range(6, 11):
        again(stepped(step, 100.0 + step))
    again(Ended(10, 10, None, None))
    assert scalars(tmp_path, "loss/train") == {step: float(step if step <= 5 else 100 + step) for step in range(1, 11)}
    assert scalars(tmp_path, "loss/validation") == {5: 0.5}


@pytest.mark.parametrize("kept_by", [Saved(None), Previewed(3, ())])
def test_what_was_flushed_survives_a_kill(tmp_path, kept_by):
    log = TensorBoardLog(tmp_path)
    log(Started(10, 0, **START))
    for step in (1, 2, 3):
        log(stepped(step, 0.5))
    log(kept_by)
    assert set(scalars(tmp_path, "loss/train")) == {1, 2, 3}  # read while the writer has the file open
    log(Ended(3, 10, None, None))


def test_a_training_that_never_started_leaves_nothing(tmp_path):
    log = TensorBoardLog(tmp_path / "tb")
    log(Ended(0, 10, None, None, ValueError()))
    assert not (tmp_path / "tb").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e300, 3.5e38, 0.0, 1e-45])
def test_every_number_is_kept_as_single_precision_has_it(tmp_path, value):
    log = TensorBoardLog(tmp_path)
    log(Started(10, 0, **START))
    log(stepped(300, value))  # a step that takes two bytes
    log(Ended(10, 10, None, None))
    [point] = read(tmp_path).Scalars("loss/train")
    with np.errstate(over="ignore"):
        np.testing.assert_equal(point.value, float(np.float32(value)))
    assert point.step == 300


def test_a_large_picture_and_text_in_any_writing_are_there(tmp_path):
    """Lengths of three bytes; the reader compares the checksums."""
    log = TensorBoardLog(tmp_path)
    noise = Image.fromarray(np.random.default_rng(3).integers(0, 255, (97, 211, 4), dtype=np.uint8), "RGBA")
    log(Started(10, 0, **START))
    log(Previewed(2**40, (noise,)))
    log(Noted(3, "学习 – é \udcff"))
    log(Ended(10, 10, None, None))
    [kept] = read(tmp_path).Images("preview/1")
    assert (kept.step, kept.width, kept.height) == (2**40, 211, 97)
    assert np.array_equal(Image.open(io.BytesIO(kept.encoded_image_string)), noise.convert("RGB"))
    assert texts(tmp_path, "notes")[1] == "学习 – é ?"


def test_the_file_says_its_format_and_its_time(tmp_path):
    """As TensorFlow's own protocol buffers read it, every field."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    before = time.time()
    log = TensorBoardLog(tmp_path)
    log(Started(10, 4, **START))
    log(Ended(10, 10, None, None))
    [file] = tmp_path.iterdir()
    first, session, *_ = loader.LegacyEventFileLoader(str(file)).Load()
    assert first.file_version == "brain.Event:2"
    assert (session.step, session.session_log.status) == (5, session.session_log.START)
    assert before <= first.wall_time <= time.time()
    assert file.name.startswith("events.out.tfevents.")
