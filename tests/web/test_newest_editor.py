"""The same in the newest editor on PyPI, as far as this ComfyUI serves it."""

import pytest
import test_drop
import test_heat_map
import test_loader
import test_mistakes
import test_numbers
import test_training_panel
from editor import BESIDE_A_BROWSER
from graphs import lay_out_for_the_browser

from tools.comfyui import frontend
from tools.comfyui.server import PACK, Server

held, adapter, looked = test_drop.held, test_heat_map.adapter, test_heat_map.looked
files, opened = test_loader.files, test_loader.opened
runs, panel, second = test_training_panel.runs, test_training_panel.panel, test_training_panel.second


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """ComfyUI with an editor that is newer than its own."""
    base = lay_out_for_the_browser(tmp_path_factory.mktemp("newest editor"))
    newest = ["--front-end-root", str(frontend.install())]
    with Server(base, packs={"comfyui-krona": PACK}, cpu=True, args=newest, env=BESIDE_A_BROWSER) as running:
        yield running


def test_it_is_the_newest_editor(editor):
    assert editor.page.evaluate("window.__COMFYUI_FRONTEND_VERSION__") == frontend.VERSION


test_an_adapter_becomes_a_node = test_drop.test_an_adapter_becomes_a_node_under_the_pointer
test_dropped_on_a_wire_it_goes_in_between = test_drop.test_dropped_on_a_wire_it_goes_in_between_and_ctrl_z_takes_all_of_it_back
test_several_become_one_blend = test_drop.test_several_become_one_blend_in_the_wire
test_a_loader_shows_what_its_file_holds = test_loader.test_a_loader_shows_what_its_file_holds
test_a_click_sets_the_strength_of_the_block = (
    test_heat_map.test_a_click_sets_the_strength_of_the_block_in_a_new_weights_node_and_in_that_one_from_then_on
)
test_stop_and_save_ends_within_one_step = test_training_panel.test_stop_and_save_ends_within_one_step_and_the_queue_goes_on
test_an_arrow_makes_a_comfortable_step = test_numbers.test_an_arrow_makes_a_comfortable_step
test_one_mistake_is_one_sentence = test_mistakes.test_one_mistake_is_one_sentence_that_names_the_input
