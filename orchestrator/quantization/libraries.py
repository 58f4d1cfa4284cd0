"""Imports the libraries that run models, only when a model runs."""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from orchestrator.errors import DependencyMissingError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from orchestrator.quantization.torch_types import Tensor, Torch


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


@contextmanager
def short_numbers_are_exact(torch: Torch, given: Tensor) -> Iterator[None]:
    """Let a GPU multiply in TF32 in a block, whose eleven significant bits hold every number of BF16 and FP16.

    Args:
        torch: The library.
        given: The tensor whose numbers are multiplied, before they became FP32.
    """
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = given.dtype != torch.float32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
