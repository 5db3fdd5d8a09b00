"""Pictures that lie apart from the list that names them: embedded when their place is named, else left out."""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration.command_line import Run, load


def test_a_list_embeds_the_pictures_of_a_folder_that_was_named(
    photos: Path, random_llava: Path, run: Run, tmp_path: Path
) -> None:
    pictures = sorted(photos.rglob("*.png"))[:2]
    lists = tmp_path / "lists"
    lists.mkdir()
    rows = [{"image": str(picture), "caption": picture.stem} for picture in pictures]
    (lists / "pairs.json").write_text(json.dumps(rows))
    words = ["caption", lists / "pairs.json", "--captioner", random_llava, "--images", "embed"]
    done = run(*words, "--out", tmp_path / "without")
    assert done.returncode == 0, done.stderr
    assert "--picture-root" in done.stderr
    assert load(tmp_path / "without", "all", tmp_path / "cache")["image"] == [None, None]
    done = run(*words, "--picture-root", photos, "--out", tmp_path / "with")
    assert done.returncode == 0, done.stderr
    assert all(load(tmp_path / "with", "all", tmp_path / "cache")["image"])
