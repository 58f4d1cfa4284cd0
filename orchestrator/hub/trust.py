"""Refuses files that may contain code, unless the recipe names the commit that the user has read."""

from __future__ import annotations

import json
from pathlib import Path

from orchestrator.errors import UntrustedCodeError
from orchestrator.values import frozen

_CONFIGURATIONS = ("config.json", "generation_config.json", "tokenizer_config.json", "*processor_config.json")
_KEYS = ("auto_map", "custom_generate", "trust_remote_code")
"""Configuration keys that make transformers load code of the model."""


@frozen
class Trusted:
    """A recipe's trust in one repository."""

    commit: str
    files: tuple[str, ...] = ()
    remote_code: bool = False

    @property
    def patterns(self) -> tuple[str, ...]:
        """File patterns that are fetched besides harmless files."""
        return (*self.files, *(("*.py",) if self.remote_code else ()))


def require_trusted_commit(repo: str, commit: str, trusted: Trusted | None) -> None:
    """Compare the recipe's trust with the commit to be used.

    Raises:
        UntrustedCodeError: The recipe trusts another commit.
    """
    if trusted and trusted.commit != commit:
        message = f"{repo}: the recipe trusts the code of commit {trusted.commit}, but the build would use {commit}"
        raise UntrustedCodeError(message, hint="read the changes, then set model.trust.commit to the new commit")


def refuse_untrusted_code(repo: str, commit: str, folder: Path, trusted: Trusted | None) -> None:
    """Find configurations that make a program load code.

    Raises:
        UntrustedCodeError: Names the first one that the recipe does not trust.
    """
    if trusted and trusted.remote_code:
        return
    for file in sorted(file for pattern in _CONFIGURATIONS for file in folder.glob(pattern)):
        key = _code_key(file)
        if key:
            message = f"{repo}@{commit}: {file.name} has `{key}`: the model has its own Python code"
            raise UntrustedCodeError(message, hint=trust_hint(commit))


def require_trusted_code(repo: str, commit: str, option: str, trusted: Trusted | None) -> None:
    """Require the recipe's trust if an option makes a tool load the model's code.

    Args:
        repo: The model.
        commit: Its commit.
        option: The option in the recipe.
        trusted: The recipe's trust.

    Raises:
        UntrustedCodeError: The recipe trusts no code.
    """
    if not (trusted and trusted.remote_code):
        message = f"{repo}@{commit}: {option} runs Python code that comes with the model"
        raise UntrustedCodeError(message, hint=trust_hint(commit))


def trust_hint(commit: str) -> str:
    """Return the recipe line that grants trust."""
    return (
        "read that code; if you trust it, add this line below `model:` in the recipe:\n"
        f"  trust: {{commit: {commit}, remote_code: true}}"
    )


def _code_key(file: Path) -> str | None:
    try:
        fields = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return None  # the reader of the file will report invalid JSON
    return next((key for key in _KEYS if isinstance(fields, dict) and fields.get(key)), None)
