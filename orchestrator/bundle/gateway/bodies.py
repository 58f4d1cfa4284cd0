"""Checks the bodies of requests for the model: only known fields pass, as only known paths do.

The runtime trusts its callers: it renders templates that a request brings, loads media from files and from the inner
network, and takes fields with which its own processes talk to each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from .refusals import refuse
from .runtimes import RUNTIMES

_TEXT_TYPES = frozenset({"text", "input_text", "output_text", "refusal", "reasoning_text", "summary_text", "thinking"})
_MEDIA = {"image_url": "image_url", "video_url": "video_url", "audio_url": "audio_url", "input_image": "image_url"}
"""The field with the address, by type of a part of a message."""
_INLINE = frozenset({"input_audio"})
"""Types whose data is always in the request."""


@dataclass(frozen=True)
class BodyRules:
    """What a body may have."""

    served: tuple[str, ...]
    """The clients' names of the model."""
    model: str
    """Its name in the runtime."""
    chat_templates: bool
    """A request may bring its own template."""
    remote_media: bool
    """Media may be loaded from addresses, by the runtime."""
    structured: bool
    """The runtime can force an answer into a format."""
    runtime: str = "tensorrt_llm"
    """It decides which fields are known."""


def prepare_body(path: str, body: bytes, rules: BodyRules) -> bytes:
    """Check the body of a request for the model, and replace the model's name by the runtime's.

    Args:
        path: The route.
        body: The body.
        rules: What it may have.

    Raises:
        RefusedError: It is not a JSON object, names another model, or has something that is not accepted.
    """
    document = _parse(body)
    _check_fields(path, document, rules)
    _check_format(path, document, rules)
    if not rules.remote_media:
        _check_media(document)
    return body if _has_right_name(document, rules) else _renamed(document, rules)


def _parse(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        refuse(400, "The body is not JSON.", code="invalid_json")
    if not isinstance(document, dict):
        refuse(400, "The body must be a JSON object.", code="invalid_json")
    return document


def _check_fields(path: str, document: Mapping[str, Any], rules: BodyRules) -> None:
    unknown = sorted(set(document) - RUNTIMES[rules.runtime].FIELDS[path])
    if unknown:
        shown = ", ".join(repr(name[:64]) for name in unknown[:5])
        refuse(400, f"{path} does not accept {shown}.", code="unknown_field")
    arguments = document.get("chat_template_kwargs")  # they reach the function that renders
    if not isinstance(arguments, dict | None):
        refuse(400, "'chat_template_kwargs' must be an object.", code="unknown_field")
    brought = [document, arguments or {}]
    if not rules.chat_templates and any(part.get("chat_template") is not None for part in brought):
        message = "'chat_template' is not accepted: templates are programs. NIM_GATEWAY_ALLOW_CHAT_TEMPLATE allows it."
        refuse(400, message, code="chat_template_off")


def _check_format(path: str, document: Mapping[str, Any], rules: BodyRules) -> None:
    """Refuse a format that the runtime would ignore without a word."""
    text = document.get("text")
    wanted = document.get("response_format") or (text.get("format") if isinstance(text, dict) else None)
    kind = str(wanted.get("type") or "text") if isinstance(wanted, dict) else "text"
    if not rules.structured and kind != "text":
        message = f"Answers of the format {kind[:64]!r} need guided decoding: NIM_GUIDED_DECODING_BACKEND sets it."
        refuse(400, message, code="structured_output_off")
    if (path, kind) in RUNTIMES[rules.runtime].IGNORED_FORMATS:
        refuse(400, f"{path} does not force answers into {kind!r}: use 'json_schema'.", code="structured_output_off")


def _check_media(document: Mapping[str, Any]) -> None:
    for part in _parts(document):
        kind = str(part.get("type"))
        if kind in _TEXT_TYPES or kind in _INLINE:
            continue
        if kind not in _MEDIA:
            refuse(400, f"Content of the type {kind[:64]!r} is not accepted.", code="unknown_content")
        address = part.get(_MEDIA[kind])
        if isinstance(address, dict):
            address = address.get("url")
        if not isinstance(address, str) or not address.startswith("data:"):
            message = f"{kind} takes data: only; NIM_GATEWAY_ALLOW_REMOTE_MEDIA allows other addresses."
            refuse(400, message, code="remote_media_off")


def _parts(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Return every part of every message that is not plain text."""
    for field in ("messages", "input", "instructions"):
        for entry in _parts_of(document.get(field)):
            yield from _parts_of(entry.get("content"))
            yield from _parts_of(entry.get("output"))  # of a tool
            if field != "messages" and str(entry.get("type")) in _MEDIA:
                yield entry


def _parts_of(content: object) -> Sequence[Mapping[str, Any]]:
    parts = content if isinstance(content, list) else [content]
    if any(isinstance(part, list) for part in parts):
        refuse(400, "Content is text or parts, not lists of lists.", code="unknown_content")
    return [part for part in parts if isinstance(part, dict)]


def _has_right_name(document: Mapping[str, Any], rules: BodyRules) -> bool:
    name = document.get("model")
    if name is None or name == rules.model == rules.served[0]:
        return True
    if name not in rules.served:
        refuse_model(name if isinstance(name, str) else json.dumps(name), rules.served)
    return bool(name == rules.model)


def refuse_model(name: str, served: Sequence[str]) -> NoReturn:
    """Refuse a name that no model here has."""
    message = f"The model {name[:200]!r} does not exist; this server has {', '.join(served)}."
    refuse(404, message, code="model_not_found")


def _renamed(document: dict[str, Any], rules: BodyRules) -> bytes:
    return json.dumps({**document, "model": rules.model}, ensure_ascii=False).encode("utf-8", "surrogatepass")
