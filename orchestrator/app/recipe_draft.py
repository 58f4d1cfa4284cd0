"""Writes the text of a new recipe, with the reason for every value."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from orchestrator.app.model_lookup import FoundModel
from orchestrator.catalog.target import Target
from orchestrator.planner.proposal import Candidate
from orchestrator.planner.serving import gpus_of
from orchestrator.recipe.model import Format, LocalModel
from orchestrator.values import frozen

_WIDTH = 110
_LONGEST_NAME = 64
_PLAIN = re.compile(r"[A-Za-z/](?:[A-Za-z0-9._/, -]*[A-Za-z0-9._/-])?")
_NOT_TEXT = ("true", "false", "null")
_FORMAT_ENDING = re.compile(r"[-_.](bf16|fp8|fp4|nvfp4|w4a16[-_]nvfp4|mxfp4|int4|awq|int4[-_]awq)$")
_TARGET_SETTINGS = "the settings that recipes for this target share"

_TRUST = "read its Python files, then add `trust: {commit: <40 digits>, remote_code: true}` below"

_Value = str | bool | int | float
_Entry = tuple[str, "_Value | Sequence[_Entry]", str]
"""A key, its value or its children, and the reason."""


@frozen
class RecipeDraft:
    """A recipe that will be written."""

    name: str
    found: FoundModel
    candidate: Candidate
    target_name: str
    target: Target
    base: str | None
    """The base that it extends."""

    def text(self, why: Mapping[str, str] | None = None) -> str:
        """Format it as YAML.

        Args:
            why: Reasons for `format`, `method` and `image`, if they are known already.
        """
        made = f"{self.found.title} in {self.candidate.format}, for {self.target_name}"
        lines = [f"# {made}. Correct what you know better."]
        for entry in self._entries(why or {}):
            lines += _yaml_lines(entry, 0)
        return "\n".join(lines) + "\n"

    def _entries(self, why: Mapping[str, str]) -> Iterator[_Entry]:
        candidate = self.candidate
        yield "name", self.name, ""
        yield "description", self._description(), ""
        if self.base:
            yield "extends", self.base, _TARGET_SETTINGS
        else:
            yield "schema_version", 1, ""
            yield "target", self.target_name, ""
        if candidate.image:
            yield "image", candidate.image, why.get("image", "")
        yield "model", list(self._model()), ""
        quantization: list[_Entry] = [
            ("format", candidate.format, why.get("format", "")),
            ("method", candidate.method, why.get("method", "")),
        ]
        if candidate.quantizer:
            quantization.append(("image", candidate.quantizer, "the first image of the catalogue that quantizes alone"))
        yield "quantization", quantization, ""
        yield from self._checks()
        serve = list(self._serve())
        if serve:
            yield "serve", serve, ""

    def _model(self) -> Iterator[_Entry]:
        model, reasons = self.found.model, self.found.reasons
        fields = model.model_dump(exclude_defaults=True)
        for key, value in fields.items():
            yield key, int(value) if isinstance(value, float) else value, reasons.get(key, "")
            if key == "repo" and self.found.brings_code:
                yield "", "", f"It contains Python code, which is not run until you trust one commit: {_TRUST}"

    def _description(self) -> str:
        title, form = self.found.title[:100], self.candidate.format
        if self.candidate.method == "none":
            return f"{title} in {form}, as it is published."
        return f"{title}, quantized to {form} by method {self.candidate.method}."

    def _checks(self) -> Iterator[_Entry]:
        if self.candidate.method == "onepass":
            text = "its predictions are compared with those of the original, on text that calibration has not seen"
            yield "checks", [("held_out", [("dataset", "cnn_dailymail", "")], text)], ""
        if self.target.gpu is None:
            yield "benchmark", "null", "no server runs on this target"

    def _serve(self) -> Iterator[_Entry]:
        gpus, shape = gpus_of(self.target), self.found.shape
        if gpus > 1:
            yield "tensor_parallel_size", gpus, "all GPUs of the target"
        if shape and shape.is_hybrid:
            reason = "the state of Mamba layers is not in the cache, so its blocks cannot be reused"
            yield "kv_cache", [("enable_block_reuse", False, reason)], ""


def name_for(title: str, form: Format) -> str:
    """Name a recipe: `<model>-<format>`."""
    ending = f"-{form.replace('_', '-')}"
    slug = re.sub(r"[^a-z0-9._-]+", "-", title.lower())
    slug = _FORMAT_ENDING.sub("", slug.strip("-._"))[: _LONGEST_NAME - len(ending)].strip("-._")
    return f"{slug or 'model'}{ending}"


def source_of(found: FoundModel) -> str:
    """Return the `source` of a model: its repository or folder."""
    return found.model.path if isinstance(found.model, LocalModel) else found.model.repo


def _yaml_lines(entry: _Entry, depth: int) -> list[str]:
    key, value, reason = entry
    indent = "  " * depth
    comments = [f"{indent}# {line}" for line in textwrap.wrap(reason, _WIDTH - len(indent) - 2)]
    if not key:
        return comments
    if isinstance(value, str | bool | int | float):
        line = f"{indent}{key}: {_scalar(value)}"
        beside = f"{line} # {reason}"
        return [beside] if reason and len(beside) <= _WIDTH else [*comments, line]
    return [*comments, f"{indent}{key}:", *(line for below in value for line in _yaml_lines(below, depth + 1))]


def _scalar(value: _Value) -> str:
    if isinstance(value, str) and (value == "null" or (_PLAIN.fullmatch(value) and value.lower() not in _NOT_TEXT)):
        return value
    return json.dumps(value, ensure_ascii=False)
