"""Checks conversations in JSON Lines. A model's chat template converts them to text."""

from __future__ import annotations

from typing import TypeAlias

from orchestrator.errors import CalibrationTextError

Messages: TypeAlias = list[dict[str, str]]
"""Turns, each with the strings `role` and `content`."""


def messages_of(value: object, where: str) -> Messages:
    """Check a conversation.

    Args:
        value: The value to check.
        where: Its place in errors.

    Raises:
        CalibrationTextError: It is not a list of objects with the strings `role` and `content`.
    """
    turns = value if isinstance(value, list) else []
    if not turns or not all(_is_turn(turn) for turn in turns):
        message = f"{where}: `messages`: expected a list of objects with the strings `role` and `content`"
        raise CalibrationTextError(message)
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


def _is_turn(turn: object) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
