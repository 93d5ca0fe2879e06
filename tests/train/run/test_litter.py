"""When a program starts, what was left in the folders of all runs goes: unfinished files, and nothing else."""

from krona_train.run.litter import sweep_below

PART = ".state-00000003.safetensors.0123456789abcdef.part"


def test_unfinished_files_go_from_all_runs_and_everything_else_stays(tmp_path):
    kept = [tmp_path / "a" / "state-00000003.safetensors", tmp_path / "a" / "previews" / "x.png", tmp_path / "a" / "notes.part"]
    left = [tmp_path / PART, tmp_path / "a" / PART, tmp_path / "a" / "previews" / PART, tmp_path / "b" / PART]
    outside = tmp_path.parent / f"{tmp_path.name} outside"
    kept.append(outside / PART)
    for path in (*kept, *left):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "link").symlink_to(outside, target_is_directory=True)
    assert sweep_below([tmp_path, tmp_path / "nowhere"]) == len(left)
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in left)
