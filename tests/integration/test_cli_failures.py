"""The command line where something is wrong: one line, an exit code, and nothing half-made."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hf_mllm_aug.errors import UsageError
from hf_mllm_aug.loopback_hub import LoopbackHub
from hf_mllm_aug.schema import caption_column
from hf_mllm_aug.staged import check_free
from tests.integration.command_line import NAME, Run, assert_one_line, environment, run_command
from tests.warm_python import python


@pytest.fixture(scope="module", autouse=True)
def asking_a_hub_that_is_down(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """A command whose source is on a Hub that is down; its client tries for half a minute, beside the other tests."""
    place = tmp_path_factory.mktemp("hub-that-is-down")
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [*python(), "-m", "hf_mllm_aug", "caption", "me/photos", "--captioner", "tiny-llava", "--out", "o"],
        env=environment(place / "home"),
        cwd=place,
        stdout=pipe,
        stderr=pipe,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_an_unknown_captioner_gets_the_nearest_name_offered(run: Run, photos: Path, tmp_path: Path) -> None:
    done = run("caption", photos, "--captioner", "tiny-lava", "--out", "out")
    assert_one_line(done, 2, "unknown captioner 'tiny-lava'", "did you mean 'tiny-llava'?")
    assert not (tmp_path / "out").exists()


def test_a_missing_image_column_is_named_with_those_that_there_are(run: Run, staged: Path, tmp_path: Path) -> None:
    done = run("caption", staged, "--captioner", "tiny-llava", "--out", "out", "--image-column", "picture")
    assert_one_line(done, 1, "no column 'picture'", "image", "--image-column")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_pictures_is_said_to_have_none(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run("caption", "empty", "--captioner", "tiny-llava", "--out", "out")
    assert_one_line(done, 1, "no pictures in empty")
    assert not (tmp_path / "out").exists()


def test_pictures_none_of_which_can_be_captioned_are_an_error(run: Run, tmp_path: Path, random_llava: Path) -> None:
    (tmp_path / "bad").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "bad" / name).write_text("no picture")
    done = run("caption", "bad", "--captioner", random_llava, "--out", "out")
    assert_one_line(done, 1, "captioned none of 2 pictures; 2 times: not a picture in a known format")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["caption", "shear"])
def test_an_output_that_exists_is_refused_and_left_as_it_is(
    run: Run, command: str, photos: Path, staged: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("dear")
    words = [photos, "--captioner", "tiny-llava"] if command == "caption" else [staged]
    done = run(command, *words, "--out", "out")
    assert_one_line(done, 1, "out exists and is not empty", "Choose another --out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("out", [".", "/", "notes.txt/out", "notes.txt/a/b", ".."])
def test_an_output_that_cannot_be_made_is_refused(out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match="Choose another --out"):
        check_free(Path(out))


def test_an_output_where_nothing_may_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_free(tmp_path / "a" / "b")
    monkeypatch.setattr("hf_mllm_aug.staged.os.access", lambda path, mode: path != tmp_path)
    with pytest.raises(UsageError, match="is not writable"):
        check_free(tmp_path / "a" / "b")


def test_the_demo_does_not_replace_what_is_not_its_own(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("dear")
    assert_one_line(run("demo", "--out", "out"), 1, "out exists and was not written by the demo")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "dear"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["caption", "gone", "--captioner", "tiny-llava", "--out", "o"], ["no such file or folder: gone"]),
        (["caption", "gone", "--out", "o"], ["Missing option '--captioner'", "hf-mllm-aug caption --help"]),
        (["shear", "gone", "--out", "o", "--rule", "seeds"], ["'seeds' is not one of 'sentence', 'raw', 'seed'"]),
        (["capton"], ["No such command 'capton'", "Did you mean 'caption'?"]),
        (["models", "--all"], ["No such option: --all"]),
        (["caption", "x", "--captioner", "tiny-llava", "--out", "o", "--max-samples", "0"], ["--max-samples"]),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else None,
)
def test_wrong_usage_is_one_line_and_2(run: Run, words: list[str], parts: list[str]) -> None:
    assert_one_line(run(*words), 2, *parts)


@pytest.mark.parametrize("words", [["shear", "notes", "--out", "o"], ["publish", "notes", "me/notes"]])
def test_a_folder_that_is_not_staged_is_refused(run: Run, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    assert_one_line(run(*words), 1, "notes is not a staged data set")


def test_an_encoder_that_is_not_there(staged: Path, hub_env: dict[str, str], tmp_path: Path) -> None:
    done = run_command("evaluate", "--model", "local/clop", "--dataset", staged, env=hub_env, cwd=tmp_path)
    assert_one_line(done, 1, "cannot load local/clop")


def test_a_column_that_is_not_there_shows_before_the_encoder_is_loaded(run: Run, staged: Path) -> None:
    done = run("evaluate", "--model", "tiny-clip", "--dataset", staged, "--columns", "caption_oter")
    assert_one_line(done, 1, "no column 'caption_oter'", caption_column(NAME), "--columns")


def test_a_hub_that_is_down(run: Run, staged: Path) -> None:
    assert_one_line(run("publish", staged, "local/photos", HF_TOKEN="hf_nonenonenonenonenone"), 1, "http://127.0.0.1:9")


def test_a_token_that_is_wrong_publishes_nothing(
    staged: Path, hub: LoopbackHub, hub_env: dict[str, str], tmp_path: Path
) -> None:
    done = run_command(
        "publish", staged, "local/photos", env=hub_env | {"HF_TOKEN": "hf_wrongwrongwrongwrong"}, cwd=tmp_path
    )
    assert_one_line(done, 1, "token", "hf auth login")
    assert "hf_wrong" not in done.stderr
    assert hub.count("POST", "/commit/") == 0


def test_debug_shows_where_it_happened(run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    done = run("publish", "notes", "me/notes", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: notes is not a staged data set")


def test_an_interruption_leaves_nothing_half_made(photos: Path, random_llava: Path, tmp_path: Path) -> None:
    many = tmp_path / "many"  # so that a busy machine does not finish them before it is interrupted
    many.mkdir()
    picture = next(photos.glob("*.png")).read_bytes()
    for number in range(1000):
        (many / f"{number:03}.png").write_bytes(picture)
    words = ["caption", str(many), "--captioner", str(random_llava), "--out", "out"]
    env = environment(tmp_path / "home") | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "hf_mllm_aug", *words],
        env=env,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run in the background of a shell, an interruption is ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        assert "1,000 pictures" in process.stdout.readline()
        # An import of other people's that catches everything may swallow an interruption; a person presses again.
        for _ in range(60):
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                _, stderr = process.communicate(timeout=4)
                break
    finally:
        process.kill()
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "error: interrupted; nothing half-made was kept."
    # An interruption inside of a destructor is shown by Python itself, and changes nothing.
    assert "Traceback" not in stderr.partition("Exception ignored")[0]
    assert {path.name for path in tmp_path.iterdir()} <= {"home", "many", "out.run"}


def test_a_source_on_a_hub_that_is_down(asking_a_hub_that_is_down: subprocess.Popen[str]) -> None:
    _, stderr = asking_a_hub_that_is_down.communicate(timeout=240)
    assert asking_a_hub_that_is_down.returncode == 1
    assert len(stderr.splitlines()) == 1, stderr
    assert "me/photos" in stderr
