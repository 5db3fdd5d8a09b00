"""What is installed: the wheel holds what runs need, and asks for nothing that it does not use."""

import ast
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
# What torch brings depends on its build, and is that build's to pin.
_OF_THE_PLATFORM = ("cuda-", "nvidia-", "setuptools", "triton")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], check=True)
    (path,) = folder.glob("hf_mllm_aug-*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel of the package that has the other miniatures."""
    folder = tmp_path_factory.mktemp("weights")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT / "miniatures")], check=True)
    (path,) = folder.glob("hf_mllm_aug_miniatures-*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def _requirements(wheel: zipfile.ZipFile) -> list[Requirement]:
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    message = Parser().parsestr(wheel.read(metadata).decode())
    return [Requirement(line) for line in message.get_all("Requires-Dist", [])]


@pytest.mark.parametrize(
    "name",
    [
        "hf_mllm_aug/py.typed",
        "hf_mllm_aug/captioners/tiny/llava/model.safetensors",
        "hf_mllm_aug/captioners/tiny/llava/README.md",
        "hf_mllm_aug/captioners/tiny/clip/model.safetensors",
        "hf_mllm_aug/demo_data/metadata.jsonl",
        "hf_mllm_aug/metrics/retrieval_recall/retrieval_recall.py",
        "hf_mllm_aug/loopback_hub/__main__.py",
    ],
)
def test_the_wheel_holds(wheel: zipfile.ZipFile, name: str) -> None:
    assert name in wheel.namelist()


def test_the_wheel_holds_every_card_template(wheel: zipfile.ZipFile) -> None:
    cards = {path.relative_to(ROOT / "cards").as_posix() for path in (ROOT / "cards").rglob("*") if path.is_file()}
    assert cards, "no templates in cards/"
    assert {f"hf_mllm_aug/_cards/{name}" for name in cards} <= set(wheel.namelist())


def test_the_wheel_holds_every_demo_picture(wheel: zipfile.ZipFile) -> None:
    here = {path.relative_to(ROOT).as_posix() for path in (ROOT / "hf_mllm_aug" / "demo_data").rglob("*.*")}
    assert here <= set(wheel.namelist())


def test_the_embedded_captioner_takes_at_most_12_mb(wheel: zipfile.ZipFile) -> None:
    tiny = [item.compress_size for item in wheel.infolist() if "/captioners/tiny/llava/" in item.filename]
    assert sum(tiny) <= 12_000_000


@pytest.mark.parametrize("name", ["tiny_minigpt_4", "tiny_qwen_vl", "tiny_otter"])
def test_the_other_miniatures_have_a_package_of_their_own(weights: zipfile.ZipFile, name: str) -> None:
    files = {Path(item).name for item in weights.namelist() if item.startswith(f"hf_mllm_aug_miniatures/{name}/")}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "training.json"} <= files


def test_nothing_from_outside_the_package_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    assert {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" not in name} == {"hf_mllm_aug"}


def test_the_licence_and_the_command_are_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
    assert "hf-mllm-aug = hf_mllm_aug.cli:main" in wheel.read(entry_points).decode()


def test_the_sdist_holds_what_its_tests_need(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {".ci/run", "benchmarks/readme_figures.py", "cards/default.md", "conftest.py", "pyproject.toml"}
    assert needed | {"dataset_scripts/cc3m.py", "miniatures/pyproject.toml"} <= names


def test_torchvision_is_nowhere(wheel: zipfile.ZipFile) -> None:
    assert "torchvision" not in {canonicalize_name(requirement.name) for requirement in _requirements(wheel)}
    assert "torchvision" not in (ROOT / "constraints.txt").read_text()
    importing = re.compile(r"^\s*(import|from) torchvision", re.MULTILINE)
    for path in ROOT.joinpath("hf_mllm_aug").rglob("*.py"):
        assert not importing.search(path.read_text(encoding="utf-8")), f"{path} imports torchvision"


def test_versions_have_lower_bounds_and_no_caps(wheel: zipfile.ZipFile) -> None:
    for requirement in _requirements(wheel):
        assert {bound.operator for bound in requirement.specifier} == {">="}, str(requirement)


def test_the_extras_are_there(wheel: zipfile.ZipFile) -> None:
    extras = {word for item in _requirements(wheel) for word in re.findall(r"extra == ['\"](\w+)", str(item.marker))}
    assert {"vllm", "ray", "openai", "plots", "torchao", "test"} <= extras


def test_no_file_of_the_embedded_models_names_a_folder(wheel: zipfile.ZipFile, weights: zipfile.ZipFile) -> None:
    for archive in (wheel, weights):
        for name in archive.namelist():
            if "/tiny" in name and name.endswith(".json") and not name.endswith("tokenizer.json"):
                assert not re.search(r'"(/|~|[A-Za-z]:)', archive.read(name).decode()), name


def test_every_import_of_the_package_is_a_requirement(wheel: zipfile.ZipFile) -> None:
    required = {canonicalize_name(requirement.name) for requirement in _requirements(wheel)}
    names = {"PIL": "pillow", "markdown_it": "markdown-it-py", "yaml": "pyyaml"}
    missing = {}
    for file in wheel.namelist():
        # The metric's app runs on the Hub, under the requirements.txt beside it.
        if file.endswith(".py") and not file.endswith("/app.py"):
            for module in _imported(wheel.read(file).decode()) - sys.stdlib_module_names - {"hf_mllm_aug"}:
                if canonicalize_name(names.get(module, module)) not in required:
                    missing[module] = file
    assert not missing


def _imported(code: str) -> set[str]:
    """The top-level modules that a module imports, at its head or later."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_the_constraints_pin_every_package_that_an_install_brings() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {canonicalize_name(item.name): item for item in map(Requirement, lines)}
    for name, pin in pins.items():
        assert [bound.operator for bound in pin.specifier] == ["=="], name
        assert "+" not in str(pin.specifier), f"{name} is pinned to one build of a version"
    assert _closure("hf-mllm-aug", {"test"}) - {"hf-mllm-aug"} <= pins.keys()


def _closure(name: str, extras: set[str]) -> set[str]:
    """The names of a distribution and of all that it requires here, followed through what is installed."""
    seen: set[str] = set()
    todo = [(canonicalize_name(name), frozenset(extras))]
    while todo:
        current, wanted = todo.pop()
        if current in seen or current.startswith(_OF_THE_PLATFORM):
            continue
        try:
            needs = requires(current) or []
        except PackageNotFoundError:  # meant for another system
            continue
        seen.add(current)
        for requirement in map(Requirement, needs):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *wanted}):
                todo.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return seen


@pytest.mark.parametrize("target", ["demo", "test", "check"])
def test_each_make_target_sets_itself_up_and_the_second_call_reuses_it(target: str, tmp_path: Path) -> None:
    def plan() -> str:
        command = ["make", "--dry-run", "--no-print-directory", target, f"VENV={tmp_path / 'venv'}"]
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout

    first = plan()
    assert "-m venv" in first
    assert "--constraint constraints.txt" in first
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    for name in ("bin/python", ".installed-core", ".installed-test"):
        (tmp_path / "venv" / name).touch()
    assert "pip install" not in plan()


def test_ci_runs_make_check_in_a_fresh_environment() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111, ".ci/run is not executable"
    text = script.read_text()
    assert "set -euo pipefail" in text
    assert re.search(r"make check VENV=\S*\$fresh", text)
