"""What a feature lacks is named when it is asked for, and nothing that was trained is lost for a picture."""

import sys

import pytest
from PIL import ImageChops

from krona_ops.errors import ConfigError
from krona_train.drawing.lettering import font
from krona_train.drawing.placard import drawn
from krona_train.packages import load, version_of
from krona_train.processes.together import Accelerated


@pytest.fixture
def without(monkeypatch):
    """Python's own way to say that a module cannot be had."""

    def hide(*names):
        for name in names:
            monkeypatch.setitem(sys.modules, name, None)

    return hide


def test_a_package_that_is_missing_is_named_with_the_way_out():
    with pytest.raises(ConfigError) as caught:
        load("no_such_package", "Flying", "walk")
    assert str(caught.value) == (
        "Flying needs the package no_such_package, which cannot be loaded: No module named 'no_such_package'. "
        "Install it in ComfyUI's Python (pip install no_such_package), or walk."
    )


@pytest.mark.parametrize(
    "error",
    ["ImportError('numpy.core.multiarray failed to import')", "AttributeError('np.float_')", "ValueError('size changed')"],
)
def test_one_that_does_not_fit_to_another_says_its_version_and_asks_for_a_newer_one(tmp_path, monkeypatch, error):
    (tmp_path / "half_broken.py").write_text(f"raise {error}\n")
    info = tmp_path / "half_broken-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: half_broken\nVersion: 1.5\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"half_broken 1\.5 is installed\): .*pip install --upgrade half_broken\)\.$"):
        load("half_broken", "Flying")
    assert version_of("half_broken") == "1.5"


def test_several_processes_without_accelerate_name_it(without):
    without("accelerate")
    with pytest.raises(
        ConfigError, match=r"training in several processes needs the package accelerate.*or train in one process"
    ):
        Accelerated(cpu=True)


def test_without_matplotlib_a_picture_says_so(without, caplog):
    without("matplotlib", "matplotlib.figure")
    picture = drawn("The loss curve", lambda: pytest.fail("drawn all the same"), (500, 200))
    assert picture.size == (500, 200)
    assert ImageChops.invert(picture).getbbox() is not None
    assert "The loss curve needs the package matplotlib" in caplog.text


def test_without_matplotlib_pictures_keep_their_letters(without):
    with_it = font(14).getlength("step 100")
    without("matplotlib")
    assert 0.5 * with_it < font(14).getlength("step 100") < 2 * with_it
