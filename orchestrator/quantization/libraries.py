"""Imports the libraries that run models, only when a model runs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from orchestrator.errors import DependencyMissingError

if TYPE_CHECKING:
    from types import ModuleType

    from orchestrator.quantization.torch_types import Torch


def load_torch() -> Torch:
    """Import torch; see `library`."""
    torch: Any = library("torch")
    found: Torch = torch
    return found


def library(name: str) -> ModuleType:
    """Import a library for calibration.

    Raises:
        DependencyMissingError: It is missing.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        message = f"calibration runs the model and needs torch and transformers: {error}"
        raise DependencyMissingError(
            message, hint="`make setup-torch` installs them beside the command; the images have them"
        ) from error
