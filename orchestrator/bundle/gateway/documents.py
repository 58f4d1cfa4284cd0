"""Reads the bundle's documents: `serve.json`, and the bodies of four routes.

`serve.json` is written where the bundle is rendered and read where it runs, by these same classes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import DocumentError

SERVE = "serve.json"
FORMAT = 1
RUNTIMES = ("tensorrt_llm", "vllm", "edge_llm")
"""The keys of versions."""
ETC = Path("/opt/nim/etc")
"""The folder of the documents in an image."""
MODEL = Path("/opt/nim/model")
"""The folder of the model in an image."""


@dataclass(frozen=True)
class ServeOption:
    """An option that this version of the runtime has."""

    flags: tuple[str, ...]
    """Its spellings, the one that the documentation prefers first."""
    type: str
    """`str`, `int`, `float`, `flag` or `path`; a flag takes no value."""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Limits:
    """The model's limits; None if not known or not limited."""

    tensor_parallel_size: int | None = None
    """A TensorRT engine was built for exactly this many; a checkpoint has no such limit."""
    pipeline_parallel_size: int | None = None
    """As above."""
    max_seq_len: int | None = None
    """Tokens of prompt and answer: a TensorRT engine's build limit, or the context that the model was trained for."""
    max_batch_size: int | None = None
    """Of a TensorRT engine."""


@dataclass(frozen=True)
class Profile:
    """The one profile that the bundle's manifest has."""

    id: str
    """64 hexadecimal digits."""
    name: str
    """Such as `tensorrt_llm-nvfp4-tp1-pp1`."""
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Serve:
    """The recipe's settings for serving, resolved for one image."""

    recipe: str
    backend: str
    """`pytorch` or `tensorrt`; empty for a runtime without a choice."""
    runtime: str
    """The runtime in the image. In `serve.json` it is the key of its version."""
    version: str
    command: tuple[str, ...]
    """The command that starts the server, without model and options: `trtllm-serve serve`."""
    model: str
    """The folder with `config.json` and the tokenizer; NIM_MODEL_PATH replaces it."""
    engine: str | None
    """The TensorRT engine's folder within `model`, if one is served: `trtllm_engine`."""
    served_model_name: str
    """The name that clients use if NIM_SERVED_MODEL_NAME is not set."""
    config: str
    """The runtime's configuration file: `/opt/nim/etc/trtllm_config.yaml`; empty if it has none."""
    arguments: tuple[str, ...]
    """The recipe's options: no model, tokenizer, config, host, port or served model name among them."""
    options: tuple[ServeOption, ...]
    """Every option that this version of the runtime has."""
    limits: Limits
    profile: Profile
    draft: str | None = None
    """The folder within `model` of the model that proposes tokens, if the configuration names one: `draft`."""
    port: int = 8000
    """The gateway's port if no variable sets it."""

    def to_json(self) -> str:
        """Write the document. The same values give the same bytes."""
        fields = {
            self.runtime if name == "version" else name: value for name, value in dataclasses.asdict(self).items()
        }
        del fields["runtime"]
        return json.dumps({"format": FORMAT, **fields}, indent=1, ensure_ascii=False) + "\n"


def parse_serve(text: str, source: str) -> Serve:
    """Read `serve.json`.

    Args:
        text: Its content.
        source: Its name in errors.

    Raises:
        DocumentError: It is not JSON, has another format, or lacks a field.
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        message = f"{source}: not JSON: {error}"
        raise DocumentError(message) from error
    if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
        message = f"{source}: expected an object of format {FORMAT}; render the bundle again with this version"
        raise DocumentError(message)
    try:
        return _serve(found)
    except (KeyError, TypeError) as error:
        message = f"{source}: a field is missing, unknown or of another type: {error}"
        raise DocumentError(message) from error


def _serve(found: dict[str, Any]) -> Serve:
    fields = dict(found)
    named = [name for name in RUNTIMES if name in fields]
    if len(named) != 1:
        message = f"expected the version of one runtime ({', '.join(RUNTIMES)})"
        raise KeyError(message)
    fields |= {"runtime": named[0], "version": fields.pop(named[0])}
    fields["command"] = tuple(fields["command"])
    fields["arguments"] = tuple(fields["arguments"])
    fields["options"] = tuple(
        ServeOption(tuple(option["flags"]), option["type"], tuple(option.get("choices", ())))
        for option in fields["options"]
    )
    fields["limits"] = Limits(**fields["limits"])
    fields["profile"] = Profile(**fields["profile"])
    return Serve(**fields)


@dataclass(frozen=True)
class Documents:
    """All documents of a bundle, read once at the start."""

    serve: Serve
    metadata: str
    license: str
    version: str
    manifest: str
    """The bodies of `/v1/metadata`, `/v1/license`, `/v1/version` and `/v1/manifest`, as JSON."""


def read_documents(folder: Path) -> Documents:
    """Read the folder of documents.

    Raises:
        DocumentError: A document is missing or invalid.
    """
    serve = parse_serve(_read(folder / SERVE), str(folder / SERVE))
    manifest = {"manifest_file": _read(folder / "model_manifest.yaml")}
    return Documents(
        serve=serve,
        metadata=_read_object(folder / "metadata.json"),
        license=_read_object(folder / "license.json"),
        version=_read_object(folder / "version.json"),
        manifest=json.dumps(manifest, ensure_ascii=False),
    )


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        message = f"cannot read {file}: {reason}"
        raise DocumentError(message) from error


def _read_object(file: Path) -> str:
    try:
        found = json.loads(_read(file))
    except ValueError as error:
        message = f"{file}: not JSON: {error}"
        raise DocumentError(message) from error
    if not isinstance(found, dict):
        message = f"{file}: expected a JSON object"
        raise DocumentError(message)
    return json.dumps(found, ensure_ascii=False)
