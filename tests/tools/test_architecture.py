"""The pages on the architecture are as the code is: pictures, tables of files, a page for each package, all rooms."""

import pytest

from tools.generate import file_tables, house

PAGES = sorted(file_tables.PAGES.glob("*.md"))
ROOMS, PACKAGES, *_ = house.rules()


@pytest.mark.parametrize("name", house.pictures())
def test_a_picture_is_that_of_the_rules(name):
    text = (house.FOLDER / name).read_text(encoding="utf-8")
    assert text == house.pictures()[name], "run: python3 tools/host.py run tools/generate/house.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_the_files_that_are_there(page):
    text = page.read_text(encoding="utf-8")
    assert text == file_tables.make(text), "run: python3 tools/host.py run tools/generate/file_tables.py"


def test_each_package_has_a_page_and_each_room_a_table():
    tables = [folder for page in PAGES for folder in file_tables.folders(page.read_text(encoding="utf-8"))]
    assert len(tables) == len(set(tables))
    for package in (*PACKAGES, "web", "benchmarks", "proof", "tools"):
        folder = file_tables.PACK / package
        rooms = {path.parent.relative_to(file_tables.PACK).as_posix() for path in folder.glob("*/__init__.py")}
        assert [table for table in tables if table == package or table.startswith(f"{package}/")]
        assert package not in PACKAGES or rooms <= set(tables)
    main = (file_tables.PACK / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert all(f"architecture/{page.name}" in main for page in PAGES)


def test_a_file_more_an_arrow_more_and_a_file_that_says_nothing_are_seen(tmp_path, monkeypatch):
    folder = tmp_path / "shelf"
    folder.mkdir()
    (folder / "a.py").write_text('"""What it is: a | b. More."""\n')
    monkeypatch.setattr(file_tables, "PACK", tmp_path)
    page = "<!-- files of shelf -->\n<!-- end of files -->\n"
    made = file_tables.make(page)
    assert "What it is: a \\| b. |" in made
    assert file_tables.make(made) == made
    (folder / "b.mjs").write_text("// @ts-check\n/**\n * A module\n * of two lines. Else. */\nexport const a = 1;\n")
    assert "| A module of two lines. |" in file_tables.make(made)
    (folder / "__main__.py").write_text('"""A command."""\n')
    assert "| [\\_\\_main\\_\\_.py](" in file_tables.make(made)  # else Markdown shows a bold main.py
    (folder / "c.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match=r"c\.py does not say what it is"):
        file_tables.make(made)
    rooms = ROOMS["krona_train"]
    assert house.draw({**rooms, "drawing": rooms["drawing"] | {"monitor"}}, "") != house.draw(rooms, "")


def test_an_arrow_that_others_imply_is_not_drawn_and_every_way_is_kept():
    arrows = {"a": {"b", "c", "d"}, "b": {"c"}, "c": {"d"}, "e": {"d"}}
    assert house.essential(arrows) == [("a", "b"), ("b", "c"), ("c", "d"), ("e", "d")]
    rows = house.levels(house.essential(arrows), "abcde")
    assert rows == {"a": 3, "b": 2, "c": 1, "d": 0, "e": 1}
    short, ways = house.with_lanes([("a", "d")], dict(rows))
    assert ways["a", "d"] == ["a", "a|d|2", "a|d|1", "d"]
    assert len(short) == 3
