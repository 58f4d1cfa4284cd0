"""Python packages that stand in for those of TensorRT Edge-LLM, which need TensorRT."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

PACKAGES = Path(__file__).parent / "standins" / "packages"


def server_of_the_stand_in() -> ModuleType:
    """Load what stands in for the package in which the server looks up the places of engines."""
    file = PACKAGES / "experimental" / "server" / "runtime" / "engine_build.py"
    spec = importlib.util.spec_from_file_location("stand_in_engine_build", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
