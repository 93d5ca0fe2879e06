"""The trainings in the browser: watched, asked to save and to stop, looked at afterwards."""

import itertools
import json
import math
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from adapters import adapter_file
from editor import VIEWPORT, Editor
from PIL import Image
from playwright.sync_api import Error

from krona_ops import load

STEPS = 60
PATIENCE = 600_000
"""Milliseconds until something never comes; a machine with five times the work that it can do took more than 120,000."""
SEEDS = itertools.count()
"""Each training has one of its own: ComfyUI does not run again what it has run."""
NO_RUN = "krona-without-run"
DRAWN_EITHER_WAY = pytest.mark.parametrize("mode", ["canvas"])
"""Of the panel beside the graph, which is the same however nodes are drawn: once is enough."""


@pytest.fixture
def runs(server, kept):
    """The folder of the runs, empty; what a test before has trained is written whole by then, and its page knows that there are no runs."""
    server.client.post_json("/queue", {"clear": True})
    deadline = time.monotonic() + 60
    while (queue := server.client.get_json("/queue"))["queue_running"] or queue["queue_pending"]:
        assert time.monotonic() < deadline, "what a test before has queued does not end"
        server.client.post_json("/interrupt", {})
        time.sleep(0.2)
    folder = server.base / "output" / "krona"
    folder.mkdir(parents=True, exist_ok=True)
    with know_of_none(kept.values()):
        for run in filter(Path.is_dir, folder.iterdir()):
            shutil.rmtree(run)
    return folder


@contextmanager
def know_of_none(pages):
    """While the runs go, no page looks at them; afterwards they learn of it."""
    for page in pages:
        page.is_changed = page.is_changed or not done(page.leave_trainings)
    yield
    for page in pages:
        page.is_changed = page.is_changed or not done(page.reconnect)


def done(action) -> bool:
    """Whether a page could do it; one that could not is loaded anew."""
    try:
        action()
    except Error:
        return False
    return True


@pytest.fixture
def panel(runs, editor):
    """The panel, opened by its key, of a server without runs."""
    return Panel(editor)


class Panel:
    """The panel as a person sees it."""

    def __init__(self, editor: Editor) -> None:
        self.editor, self.page = editor, editor.page
        self.open()

    def open(self) -> None:
        self.page.keyboard.press("Shift+K")
        self.page.locator(".krona-training").wait_for()

    @property
    def points(self) -> int:
        return int(self.page.locator(".krona-plot").get_attribute("data-points"))

    @property
    def state(self) -> str | None:
        return self.page.locator(".krona-head .krona-dot").get_attribute("data-state")

    def await_points(self, count: int) -> None:
        self.page.wait_for_function(
            "(count) => Number(document.querySelector('.krona-plot')?.dataset.points) >= count", arg=count, timeout=PATIENCE
        )

    def await_state(self, state: str) -> None:
        self.page.locator(f".krona-head .krona-dot[data-state='{state}']").wait_for(timeout=PATIENCE)

    def await_picture(self, step: int | None = None) -> None:
        """Until a preview has arrived and is drawn."""
        self.page.wait_for_function(
            """(step) => {
                const place = document.querySelector(".krona-pictures");
                const pictures = [...place.querySelectorAll("img")];
                return pictures.length && pictures.every((each) => each.complete && each.naturalWidth > 0)
                    && (step === null || Number(place.dataset.step) === step);
            }""",
            arg=step,
            timeout=PATIENCE,
        )

    def told(self, run: str) -> dict:
        """What the server knows of a run."""
        return self.editor.server.client.get_json(f"/krona/runs/{run}")


def graph(editor: Editor, preview_steps=2, **changes) -> int:
    """A training as a person lays it out; the id of its node. With 20 steps of the sampler, a preview takes as long as 60 of the training."""
    model = editor.add("CheckpointLoaderSimple", (20, 60), ckpt_name="tiny-full.safetensors")
    data = editor.add("KronaDataset", (20, 240), folder="krobot", resolution=64, prompt="a photo of sks robot")
    settings = editor.add("KronaTrainSettings", (20, 480), preview_steps=preview_steps)
    chosen = {
        "name": "robot",
        "steps": STEPS,
        "seed": next(SEEDS),
        "batch_size": 2,
        "learning_rate": 5e-3,
        "preview_every": 20,
        **changes,
    }
    train = editor.add("KronaTrain", (460, 60), **chosen)
    for output, entry in enumerate(("model", "clip", "vae")):
        editor.connect(model, output, train, entry)
    editor.connect(data, 0, train, "dataset")
    editor.connect(settings, 0, train, "settings")
    return train


def picture(color: int) -> dict:
    """A graph that has nothing to do with training."""
    empty = {"width": 64, "height": 64, "batch_size": 1, "color": color}
    return {
        "1": {"class_type": "EmptyImage", "inputs": empty},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


def keep_graph(editor: Editor) -> None:
    """As after a click of a person: only then does ComfyUI note what a reload brings back."""
    editor.page.evaluate("app.extensionManager.workflow.activeWorkflow.changeTracker.checkState()")
    editor.page.wait_for_function("() => JSON.stringify({ ...localStorage, ...sessionStorage }).includes('KronaTrain')")


def of_kind(rows: list[dict], kind: str) -> list[dict]:
    return [row for row in rows if row["event"] == kind]


def past_run(
    folder, steps: int = 40, *, level: float = 1.0, previews=(), prompts: int = 1, validate: int = 0, ended=True
) -> None:
    """A run of yesterday."""
    (folder / "previews").mkdir(parents=True)
    rows = [{"event": "started", "step": 0, "steps": steps, "layers": 8, "parameters": 100, "notes": [], "time": 1.7e9}]
    for step in range(1, steps + 1):
        loss = level * (0.2 + 1 / (1 + step / 10)) + 0.05 * math.sin(7.0 * step)
        told = {"loss": loss, "grad_norm": 1.0, "learning_rate": 5e-4, "seconds": 0.5 * step, "memory": 2**30}
        rows.append({"event": "step", "step": step, "steps": steps, **told, "time": 1.7e9 + 0.5 * step})
        if validate and step % validate == 0:
            rows.append(
                {"event": "validation", "step": step, "validation": loss + 0.1, "best": True, "time": 1.7e9 + 0.5 * step}
            )
        if step in previews:
            names = [f"step-{step:06}-{number}.png" for number in range(1, prompts + 1)]
            for name in names:
                Image.new("RGB", (64, 64), (40 + 4 * step % 200, 90, 160)).save(folder / "previews" / name)
            rows.append({"event": "preview", "step": step, "pictures": names, "time": 1.7e9 + 0.5 * step})
    if ended:
        rows.append({"event": "ended", "step": steps, "steps": steps, "error": None, "stopped": False, "time": 1.7e9 + steps})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def second(server, editor):
    """Another person's page, opened before anything is trained."""
    context = editor.page.context.browser.new_context(viewport=VIEWPORT, reduced_motion="reduce")
    opened = Editor(context.new_page(), server)
    opened.open()
    yield opened
    errors = opened.errors()
    context.close()
    assert errors == []


@DRAWN_EITHER_WAY
def test_a_training_is_watched_reloaded_and_seen_by_a_second_page(panel, editor, second):
    watch_and_reload(panel, editor, Panel(second))


@pytest.mark.parametrize("mode", ["vue"])
def test_a_training_is_watched_and_reloaded(panel, editor):
    watch_and_reload(panel, editor)


def watch_and_reload(panel, editor, other=None):
    """The issue's own words: chart points = steps, a preview while the run goes on, a reload in the middle keeps the history."""
    node = graph(editor, preview_steps=20, accumulate=8, steps=5000)  # steps as slow as real ones, and more than any reload takes; stopped at the end
    keep_graph(editor)
    assert panel.page.locator(".krona-empty").is_visible()
    editor.queue()

    panel.await_points(3)
    panel.await_picture()
    assert panel.state == "training"
    assert panel.page.get_by_role("progressbar", name="training, step").count() == 1

    editor.reload()
    panel.open()
    before = len(of_kind(panel.told("robot")["rows"], "step"))
    panel.await_points(before)  # nothing of what was before the reload is missing
    assert panel.state == "training"
    card = editor.page.locator(".krona-train-card")
    editor.page.wait_for_function("() => Number(document.querySelector('.krona-train-card')?.dataset.points) > 0")
    assert card.get_attribute("data-run") == "robot"

    panel.await_points(panel.points + 2)  # it goes on live
    editor.look("training")
    panel.page.get_by_role("button", name="Stop and save").first.focus()
    panel.page.keyboard.press("Enter")  # a click waits until the button stands still, for which two pages on a slow machine gave it no time
    panel.await_state("finished")
    steps = of_kind(panel.told("robot")["rows"], "step")
    assert [row["step"] for row in steps] == list(range(1, len(steps) + 1))
    panel.await_points(len(steps))
    assert panel.points == len(steps)
    panel.await_picture()
    editor.page.wait_for_function(f"() => document.querySelector('.krona-train-card').dataset.points === '{len(steps)}'")
    editor.page.wait_for_function(f"() => app.graph.getNodeById({node}).properties.krona_run === 'robot'")

    editor.look("trained")
    if other:
        other.await_state("finished")
        other.await_points(len(steps))
        assert other.points == len(steps)


def test_sixty_steps_are_sixty_points_and_the_last_preview_is_shown(panel, editor):
    graph(editor)
    editor.queue()
    panel.await_points(1)
    panel.await_state("finished")
    panel.await_points(STEPS)
    assert panel.points == len(of_kind(panel.told("robot")["rows"], "step")) == STEPS
    panel.await_picture(STEPS)
    editor.page.wait_for_function(f"() => document.querySelector('.krona-train-card').dataset.points === '{STEPS}'")


def test_stop_and_save_ends_within_one_step_and_the_queue_goes_on(panel, editor, runs, server):
    graph(editor, steps=2000, preview_every=0)
    editor.queue()
    panel.await_points(8)
    waiting = server.client.post(picture(1))

    button = panel.page.get_by_role("button", name="Stop and save").first
    with panel.page.expect_response("**/requests") as answer:
        button.focus()
        panel.page.keyboard.press("Enter")
    pressed = time.time()
    assert answer.value.status == 202
    panel.await_state("finished")

    rows = panel.told("robot")["rows"]
    late = [row["step"] for row in of_kind(rows, "step") if row["time"] > pressed]
    assert len(late) <= 1, late
    last = of_kind(rows, "step")[-1]["step"]
    assert last < 2000
    panel.await_points(last)
    assert rows[-1]["event"] == "ended"
    assert len(load(runs / "robot" / "adapter.safetensors")) == 8
    server.client.run(picture(2))  # which comes behind it in the queue
    assert server.client.history(waiting)["status"]["status_str"] == "success"
    assert not button.is_visible()


@DRAWN_EITHER_WAY
def test_save_now_leaves_a_file_and_the_training_goes_on(panel, editor, runs):
    graph(editor, steps=2000, preview_every=0)
    editor.queue()
    panel.await_points(5)
    button = panel.page.get_by_role("button", name="Save now").first
    button.click()
    told = panel.page.locator(".krona-head .krona-told")
    panel.page.wait_for_function("() => document.querySelector('.krona-head .krona-told').textContent.startsWith('saved')")
    name = told.text_content().removeprefix("saved: ")
    assert len(load(runs / "robot" / name)) == 8
    assert "saved" in panel.page.get_by_role("log").text_content()
    assert button.get_attribute("aria-disabled") == "false"

    before = panel.points
    panel.await_points(before + 3)
    assert panel.state == "training"
    panel.page.get_by_role("button", name="Stop and save").first.click()
    panel.await_state("finished")


def test_the_card_on_the_node_shows_the_training_and_stops_it(runs, editor):
    node = graph(editor, steps=2000)
    card = editor.page.locator(".krona-train-card")
    card.wait_for(state="attached")
    assert NO_RUN in card.get_attribute("class")
    editor.page.evaluate(
        "(id) => { const n = app.graph.getNodeById(id); app.canvas.ds.scale = 1; "
        "app.canvas.ds.offset[0] = 300 - n.pos[0]; app.canvas.ds.offset[1] = 700 - n.pos[1] - n.size[1]; "
        "app.canvas.setDirty(true, true); }",
        node,
    )
    editor.queue()
    editor.page.wait_for_function(
        "() => Number(document.querySelector('.krona-train-card').dataset.points) >= 5", timeout=PATIENCE
    )
    editor.page.wait_for_function("() => document.querySelector('.krona-train-card img').naturalWidth > 0")
    assert "/2000" in card.text_content()
    card.get_by_role("button", name="Open panel").click()
    editor.page.locator(".krona-training").wait_for()
    editor.page.keyboard.press("Shift+K")
    card.get_by_role("button", name="Stop and save").click()
    editor.page.locator(".krona-train-card .krona-dot[data-state='finished']").wait_for(timeout=PATIENCE)
    steps = editor.page.evaluate("() => Number(document.querySelector('.krona-train-card').dataset.points)")
    assert 5 <= steps < 2000

    saved = editor.page.evaluate("(id) => app.graph.getNodeById(id).serialize()", node)
    assert saved["properties"]["krona_run"] == "robot"
    names = [widget["name"] for widget in saved["inputs"] if "widget" in widget]
    assert len(saved["widgets_values"]) == len(names), "the card is no widget of a saved graph"
    prompt = editor.page.evaluate("app.graphToPrompt()")
    assert not [name for name in prompt["output"][str(node)]["inputs"] if "krona_" in name]

    editor.page.evaluate("(graph) => app.loadGraphData(graph)", prompt["workflow"])  # opened again, as after a restart
    editor.page.wait_for_function(f"() => document.querySelector('.krona-train-card')?.dataset.points === '{steps}'")


def test_the_card_lies_inside_its_node(runs, editor, mode):
    node = editor.add("KronaTrain", (300, 60))
    editor.page.locator(".krona-train-card").wait_for()
    editor.page.wait_for_function(
        """([id, isVue]) => {
            const box = document.querySelector(".krona-train-card").getBoundingClientRect();
            if (isVue) {
                const around = document.querySelector(`[data-node-id="${id}"]`).getBoundingClientRect();
                return around.top < box.top && box.bottom <= around.bottom && around.left <= box.left && box.right <= around.right;
            }
            const { pos, size } = app.graph.getNodeById(id), view = app.canvas.ds;
            const canvas = app.canvas.canvas.getBoundingClientRect();
            const bottom = canvas.top + (pos[1] + size[1] + view.offset[1]) * view.scale;
            const right = canvas.left + (pos[0] + size[0] + view.offset[0]) * view.scale;
            return box.height > 20 && box.bottom <= bottom && box.right <= right;
        }""",
        arg=[node, mode == "vue"],
    )


@DRAWN_EITHER_WAY
def test_past_runs_are_listed_and_two_are_laid_over_each_other(runs, editor):
    past_run(runs / "first try", 40, validate=10)
    past_run(runs / "second try", 60, level=0.7, ended=False)
    panel = Panel(editor)
    page = panel.page
    page.locator(".krona-runs li").nth(1).wait_for()
    names = page.locator(".krona-run-name").all_text_contents()
    assert sorted(names) == ["first try", "second try"]
    page.get_by_role("button", name="first try finished").click()
    panel.await_points(40)
    assert "stopped" in page.locator("li[data-run='second try'] .krona-run-facts").text_content()
    assert page.locator(".krona-figures [data-figure=best]").text_content().endswith("40")

    page.get_by_role("button", name="Compare with second try").click()
    page.wait_for_function("() => document.querySelector('.krona-plot').dataset.compared === '60'")
    drawn = page.locator(".krona-plot .krona-series .krona-smooth")
    assert [bool(drawn.nth(n).get_attribute("d")) for n in range(drawn.count())] == [True, True]
    colours = drawn.evaluate_all("(lines) => lines.map((line) => getComputedStyle(line).stroke)")
    assert len(set(colours)) == 2
    assert page.locator(".krona-legend .krona-name").all_text_contents() == ["first try", "second try"]
    page.get_by_role("button", name="Stop comparing with second try").click()
    page.wait_for_function("() => document.querySelector('.krona-plot').dataset.compared === ''")


@DRAWN_EITHER_WAY
def test_the_slider_goes_through_the_previews(runs, editor):
    past_run(runs / "robot", 40, previews=(10, 20, 30, 40), prompts=3)
    panel = Panel(editor)
    panel.await_picture(40)
    assert panel.page.locator(".krona-pictures img").count() == 3
    slider = panel.page.get_by_role("slider", name="Step of the previews")
    slider.focus()
    for step in (30, 20, 10):
        panel.page.keyboard.press("ArrowLeft")
        panel.await_picture(step)
        assert f"step {step}" in panel.page.locator(".krona-time").text_content()
    panel.page.keyboard.press("End")
    panel.await_picture(40)
    assert "latest" in panel.page.locator(".krona-time").text_content()


@DRAWN_EITHER_WAY
def test_the_chart_is_read_with_the_keyboard(runs, editor):
    past_run(runs / "robot", 40)
    past_run(runs / "other", 30)
    panel = Panel(editor)
    page = panel.page
    page.locator("li[data-run=other] .krona-run").focus()
    page.keyboard.press("Enter")
    panel.await_points(30)
    chart = page.get_by_role("slider", name="Loss of other")
    readout = page.locator(".krona-readout")
    assert not readout.is_visible()
    chart.focus()
    for key, step in (("Home", 1), ("ArrowRight", 2), ("End", 30), ("ArrowLeft", 29)):
        page.keyboard.press(key)
        assert readout.locator("b").text_content() == f"step {step}"
        assert chart.get_attribute("aria-valuenow") == str(step)
    row = of_kind(panel.told("other")["rows"], "step")[28]
    assert f"{row['loss']:.4f}" in readout.text_content()
    page.keyboard.press("Escape")
    assert not readout.is_visible()

    focused = set()
    page.locator(".krona-run").first.focus()
    for _ in range(12):
        focused.add(page.evaluate("document.activeElement.className || document.activeElement.type"))
        page.keyboard.press("Tab")
    assert {"krona-run", "krona-compare", "krona-plot", "range", "checkbox", "krona-log"} <= focused


@DRAWN_EITHER_WAY
def test_smoothing_and_scale_are_remembered(runs, editor):
    past_run(runs / "robot", 40)
    panel = Panel(editor)
    panel.await_points(40)
    line = panel.page.locator(".krona-plot .krona-series-0 .krona-smooth")
    before = line.get_attribute("d")
    panel.page.get_by_role("slider", name="smoothing").fill("0")
    plain = line.get_attribute("d")
    assert plain != before
    panel.page.get_by_role("checkbox", name="log scale").check()
    assert line.get_attribute("d") != plain
    editor.reload()
    panel.open()
    panel.await_points(40)
    assert panel.page.get_by_role("checkbox", name="log scale").is_checked()
    assert panel.page.get_by_role("slider", name="smoothing").input_value() == "0"
    raw = panel.page.locator(".krona-plot .krona-series-0 .krona-raw")
    assert line.get_attribute("d") == raw.get_attribute("d"), "without smoothing both are the same line"


def test_a_result_is_put_into_the_graph(runs, editor):
    past_run(runs / "robot", 40)
    adapter_file(runs / "robot" / "adapter.safetensors")
    panel = Panel(editor)
    panel.page.get_by_role("button", name="Load it").click()
    panel.page.wait_for_function("() => app.graph.nodes.some((node) => node.type === 'KronaLoad')")
    assert [node["widgets"]["file"] for node in editor.nodes("KronaLoad")] == ["robot/adapter.safetensors"]


@DRAWN_EITHER_WAY
def test_a_hundred_thousand_steps_are_thinned_out_before_they_are_drawn(runs, editor):
    past_run(runs / "long", 100_000)
    panel = Panel(editor)
    panel.await_points(100_000)
    page = panel.page
    assert len(page.locator(".krona-plot .krona-series-0 .krona-raw").get_attribute("d")) < 60_000


@DRAWN_EITHER_WAY
@pytest.mark.parametrize("settings", [{"Comfy.Locale": "zh"}, {"Comfy.Locale": "ja"}])
def test_it_speaks_the_user_s_language(panel, settings):
    assert "Train KronA" in panel.page.locator(".krona-empty").text_content()
    assert "No training" not in panel.page.locator(".krona-empty").text_content()
