"""Imports the libraries that run models, only when a model runs."""

from __future__ import annotations

import importlib
from typing import Any

from orchestrator.errors import DependencyMissingError


def library(name: str) -> Any:  # noqa: ANN401 - a library without types here
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
