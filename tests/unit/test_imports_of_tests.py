"""Which modules a test can reach, for the choice of tests that `make mutants` runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from mutants.imports import Imports

FILES = {
    "orchestrator/__init__.py": "",
    "orchestrator/store/__init__.py": "from .disk import Disk\n",
    "orchestrator/store/disk.py": "class Disk: ...\n",
    "orchestrator/lazy.py": "def load(name):\n    return importlib.import_module(f'{__package__}.{name}')\n",
    "orchestrator/late.py": "def run():\n    from orchestrator.store import disk\n",
    "orchestrator/alone.py": "",
    "tests/conftest.py": "pytest_plugins = ('tests.support.plugin',)\n",
    "tests/support/plugin.py": "",
    "tests/unit/conftest.py": "import orchestrator.alone\n",
    "tests/unit/test_late.py": "from orchestrator import late\n",
    "tests/unit/test_lazy.py": "from orchestrator.lazy import load\n",
    "tests/contract/test_words.py": "TEXT = 'orchestrator.alone'\nimport yaml\n",
    "recipes/tiny.yaml": "model: tiny\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def reached(tree: Path, test: str) -> set[str]:
    return {file.relative_to(tree).as_posix() for file in Imports(tree).reached(tree / test)}


def test_a_test_reaches_what_it_imports_at_any_depth_and_what_pytest_loads_for_it(tree: Path) -> None:
    assert reached(tree, "tests/unit/test_late.py") == {
        "tests/unit/test_late.py",
        "tests/unit/conftest.py",
        "tests/conftest.py",
        "tests/support/plugin.py",
        "orchestrator/__init__.py",
        "orchestrator/alone.py",
        "orchestrator/late.py",
        "orchestrator/store/__init__.py",
        "orchestrator/store/disk.py",
    }


def test_a_module_that_makes_names_of_modules_reaches_its_whole_package(tree: Path) -> None:
    assert {name for name in FILES if name.startswith("orchestrator")} <= reached(tree, "tests/unit/test_lazy.py")


def test_a_text_and_a_library_are_no_modules_of_ours(tree: Path) -> None:
    assert reached(tree, "tests/contract/test_words.py") == {
        "tests/contract/test_words.py",
        "tests/conftest.py",
        "tests/support/plugin.py",
    }


@pytest.mark.parametrize("name", ["orchestrator/store/disk.py", "recipes/tiny.yaml", "tests/support/plugin.py"])
def test_what_is_known_of_a_test_ends_with_a_change_of_what_it_reaches(tree: Path, name: str) -> None:
    def digest() -> str:
        imports = Imports(tree)
        return imports.digest(imports.reached(tree / "tests/unit/test_late.py"))

    before = digest()
    assert digest() == before
    (tree / name).write_text(f"{FILES[name]}# changed\n")
    assert digest() != before


@pytest.mark.parametrize("name", ["orchestrator/lazy.py", "tests/unit/test_lazy.py"])
def test_what_it_does_not_reach_leaves_it_as_it_is(tree: Path, name: str) -> None:
    imports = Imports(tree)
    before = imports.digest(imports.reached(tree / "tests/unit/test_late.py"))
    (tree / name).write_text("# changed\n")
    changed = Imports(tree)
    assert changed.digest(changed.reached(tree / "tests/unit/test_late.py")) == before
