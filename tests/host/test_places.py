"""Which folders a graph may name, by where the server listens; and that nothing is told of the others."""

import os

import pytest

from krona_ops.errors import ConfigError, DataError


@pytest.fixture
def host(comfy, monkeypatch, tmp_path):
    """The host's folders below a temporary one; ``listen`` opens the server to others."""
    import comfy.cli_args
    import folder_paths

    for name in ("input", "output", "models", "elsewhere", "listed", "in the file"):
        (tmp_path / name / "pictures").mkdir(parents=True)
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "input"))
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))

    class Host:
        def listen(self, address="0.0.0.0"):
            monkeypatch.setattr(comfy.cli_args.args, "listen", address)

    return Host()


def picture_folder(name):
    from krona_pack.nodes.server import paths

    return paths.picture_folder(str(name))


def test_a_server_for_this_computer_alone_reads_any_folder(host, tmp_path):
    for listen in ("127.0.0.1", "127.0.0.1,::1", "localhost"):
        host.listen(listen)
        assert picture_folder(tmp_path / "elsewhere") == tmp_path / "elsewhere"
        assert picture_folder("pictures") == tmp_path / "input" / "pictures"


@pytest.mark.parametrize("listen", ["0.0.0.0,::", "192.168.1.5", "127.0.0.1,192.168.1.5", "comfy.example"])
def test_one_that_others_can_reach_reads_those_of_the_host_and_those_that_are_listed(host, monkeypatch, tmp_path, listen):
    import folder_paths

    host.listen(listen)
    for name in ("input", "output", "models"):
        assert picture_folder(tmp_path / name / "pictures") == tmp_path / name / "pictures"
    assert picture_folder("pictures") == tmp_path / "input" / "pictures"
    assert picture_folder("krobot").name == "krobot"
    assert picture_folder("krobot").is_dir()
    for name in ("listed", "in the file"):
        with pytest.raises(DataError):
            picture_folder(tmp_path / name / "pictures")
    monkeypatch.setenv("KRONA_DATA_FOLDERS", os.pathsep.join(["/nowhere", str(tmp_path / "listed")]))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "krona_data", ([str(tmp_path / "in the file")], set()))
    for name in ("listed", "in the file"):
        assert picture_folder(tmp_path / name / "pictures") == tmp_path / name / "pictures"


def refusals(names):
    for name in names:
        with pytest.raises(DataError) as refused:
            picture_folder(name)
        yield str(refused.value).replace(str(name), "NAME")


def test_what_is_refused_is_refused_in_the_same_words_whether_or_not_it_is_there(host, tmp_path):
    host.listen()
    (tmp_path / "input" / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "input" / "inside").symlink_to(tmp_path / "output", target_is_directory=True)
    os.makedirs(tmp_path / "input-of-others")
    names = [
        *(
            "/etc",
            "/nowhere/at/all",
            "/root",
            "../elsewhere",
            "../nowhere",
            "link",
            "link/pictures",
            "~",
            f"{tmp_path}/input-of-others",
        ),
        *(f"{tmp_path}/input/../elsewhere", f"{tmp_path}/input/link/pictures", "a\0b"),
    ]
    messages = set(refusals(names))
    assert len({text.partition(": ")[2] for text in messages}) == 1
    [text] = {text.partition(": ")[2] for text in messages}
    assert "input folder" in text
    assert "KRONA_DATA_FOLDERS" in text
    assert picture_folder("inside/pictures") == tmp_path / "input" / "inside" / "pictures"


def test_the_nodes_ask_before_they_look(host, tmp_path):
    from krona_pack.nodes.dataset import KronaDataset
    from krona_pack.nodes.server import paths

    host.listen()
    there, missing = (KronaDataset.validate_inputs(folder=str(tmp_path / name)) for name in ("elsewhere", "not there"))
    assert there.replace("elsewhere", "not there") == missing  # as long: messages cut long names
    assert "ComfyUI's own folders only" in there
    with pytest.raises(DataError, match="ComfyUI's own folders only"):
        KronaDataset.fingerprint_inputs(folder="", class_folder="/etc")
    with pytest.raises(ConfigError, match="ComfyUI's own folders only"):
        paths.judges_folder("/etc")
    with pytest.raises(ConfigError, match="ComfyUI's own folders only"):
        paths.judges_folder("../elsewhere")
    assert paths.judges_folder("pictures") == tmp_path / "models" / "pictures"


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "~nobody-of-this-name/x", "\udcff", "con", "a\nb"])
def test_names_that_no_folder_can_have_are_answered_in_words(host, name):
    from krona_pack.nodes.dataset import KronaDataset

    for listen in ("127.0.0.1", "0.0.0.0"):
        host.listen(listen)
        assert isinstance(KronaDataset.validate_inputs(folder=name), str)


def test_what_a_node_raises_names_no_folder_and_stays_what_it_is(host, tmp_path):
    from krona_pack.nodes import extension
    from krona_pack.nodes.dataset import KronaDataset
    from krona_pack.nodes.node import Node

    assert all(issubclass(node, Node) for node in extension.NODES)
    inputs = {"prompt": "a", "captions": "from .txt files, else the prompt", "resolution": 64}
    with pytest.raises(DataError) as raised:
        KronaDataset.execute(folder=str(tmp_path / "nowhere"), **inputs)
    assert "nowhere: There is no such folder." in str(raised.value)
    assert str(tmp_path) not in str(raised.value)
    clone = KronaDataset.PREPARE_CLASS_CLONE(None)  # as the host runs it
    with pytest.raises(DataError, match=r"^[^/].*nowhere: There"):
        clone.execute(folder=str(tmp_path / "nowhere"), **inputs)
