"""What set-up leaves for tests: the lock, its wheels, and environments with libraries that the tests' own has not.

`make` names each place in a variable; without one, it is where `make` puts it by default.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCK = Path(os.environ.get("ORCHESTRATOR_LOCK") or ROOT / "requirements")


def locked_wheels() -> Path:
    """Give the folder with the wheels of the tool's own environment."""
    return _found("ORCHESTRATOR_WHEELS", ".venv/wheels", ".venv/.tested")


def oracle_python() -> Path:
    """Give the interpreter that has torch, transformers and the real ModelOpt."""
    return _found("ORCHESTRATOR_ORACLE_PYTHON", ".venv-oracle/bin/python", ".venv-oracle/.installed")


def image_python() -> Path:
    """Give the interpreter that has the libraries of an image of TensorRT-LLM."""
    return _found("ORCHESTRATOR_IMAGE_PYTHON", ".venv-image/bin/python", ".venv-image/.installed")


def vllm_python() -> Path:
    """Give the interpreter that has what vLLM's configuration classes import; beside it lie vLLM's Python files."""
    return _found("ORCHESTRATOR_VLLM_PYTHON", ".venv-vllm/bin/python", "test-vllm")


def checkov() -> Path:
    """Give the command of the checker of manifests."""
    return _found("ORCHESTRATOR_CHECKOV", ".venv-checkov/bin/checkov", ".venv-checkov/.installed")


def mkdocs() -> Path:
    """Give the command that builds the site of docs/."""
    return _found("ORCHESTRATOR_MKDOCS", ".venv-docs/bin/mkdocs", ".venv-docs/.installed")


def clients() -> Path:
    """Give the folder of the programs that load a deployment."""
    return _found("ORCHESTRATOR_CLIENTS", ".venv-clients/bin", ".venv-clients/.installed")


def _found(variable: str, place: str, target: str) -> Path:
    """Find what a variable names or a target makes; else skip, or fail where nothing may be skipped."""
    path = Path(os.environ.get(variable) or ROOT / place)
    if not path.exists():
        import pytest  # noqa: PLC0415 - environments for programs of tests lack it

        why = f"there is no {path}: run `make {target}` or set {variable}"
        if os.environ.get("ORCHESTRATOR_REQUIRE_ALL") == "1":
            pytest.fail(why)
        pytest.skip(why)
    return path
