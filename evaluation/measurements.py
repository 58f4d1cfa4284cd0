"""The published measurements as rows that the planner can be scored on, and the others with the reason why not."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from orchestrator.catalog.target import Target
from orchestrator.errors import ConfigInvalidError
from orchestrator.models import ModelShape, shape_of
from orchestrator.planner.bytes import kv_bytes_read, weights_read_per_step
from orchestrator.planner.constants import Constants, Cost, Runtime
from orchestrator.planner.queueing import queue_of
from orchestrator.planner.scheme import KvDtype, Scheme, as_published, scheme_of, scheme_of_quant_config
from orchestrator.planner.serving import RUNTIME, Kernels, Serving
from orchestrator.planner.step_time import load_of, prefill_terms, served_terms, step_terms

Kind = Literal["dense one", "dense many", "moe one", "moe many", "prefill"]

_FORMATS = {
    "BF16": "bf16",
    "FP8": "fp8",
    "NVFP4": "nvfp4",
    "NVFP4 (Marlin kernels)": "nvfp4",
    "NVFP4 W4A16": "w4a16_nvfp4",
    "MXFP4": "mxfp4",
    "GPTQ-Int4": "int4_awq",
    "Q8_0": "q8_0",
    "Q4_0": "q4_0",
    "Q4_K_M": "q4_k_m",
}
_RUNTIMES: tuple[tuple[str, Runtime], ...] = (
    ("llama.cpp", "llama.cpp"),
    ("TensorRT-LLM", "trtllm"),
    ("SGLang", "sglang"),
    ("vLLM", "vllm"),  # NIM's row says "vLLM 0.10.1 inside"
)
_SPECULATIVE = re.compile(r"spec[ -]decode|\bMTP\b", re.IGNORECASE)
_DEPTH = re.compile(r"depth (\d+)$")
_SHORT = 512
"""Tokens of context where a source names none: short prompts and answers."""
_LEAST_PROMPT = 2048
"""Shorter prompts measure the server's latency rather than its products."""
_NVFP4_PEAK = 4
"""Operations at four bits against those at 16, on the tensor cores of Blackwell."""


@dataclass(frozen=True)
class Model:
    """What a name in the file stands for."""

    backbone: str
    """Models of the same dimensions, which are left out together."""
    shape: ModelShape
    schemes: Mapping[str, Scheme]
    """By format of the file, where the checkpoint says more than the format's default rules."""

    def scheme(self, format_name: str, runtime: Runtime) -> Scheme:
        """Say how the weights of a row are stored."""
        if runtime == "llama.cpp":
            name = _FORMATS[format_name]
            return scheme_of("gguf_mxfp4" if name == "mxfp4" else name)
        named = scheme_of(_FORMATS[format_name])
        return self.schemes.get(format_name) or (named if runtime == RUNTIME else as_published(named))


@dataclass(frozen=True)
class Row:
    """One measurement: a decode or a prefill."""

    line: int
    """Of the file, the head being 1."""
    model: str
    format: str
    runtime: Runtime
    server_name: str
    source: str
    known: Model
    batch: int
    prompt: int
    answer: int
    context: int
    """Mean tokens in the cache while it decodes."""
    gpus: int
    kv_dtype: KvDtype
    clients: bool
    """Measured over clients of a server, from the first token of the first to the last token of the last."""
    prefill: bool
    measured: float
    """Tokens per second, of the whole batch."""

    @property
    def kind(self) -> Kind:
        """The group that it is scored in."""
        if self.prefill:
            return "prefill"
        which = "moe" if self.known.shape.is_moe else "dense"
        return f"{which} {'one' if self.batch == 1 else 'many'}"  # type: ignore[return-value] # four of the five

    @property
    def run(self) -> tuple[str, str]:
        """One server and checkpoint."""
        page = self.source.split(" ")[0]
        return self.model, page.rpartition("/")[0] if page.endswith(".md") else page

    @property
    def seconds(self) -> float:
        """The measured time: of a step, or of a prompt."""
        return (self.prompt if self.prefill else self.batch) / self.measured

    @property
    def asked(self) -> bool:
        """Whether it is a workload: a prompt, an answer, and clients that each send the next request."""
        return self.clients and self.prompt > 0 and self.answer > 0 and not _DEPTH.search(self.source)

    @property
    def kernels(self) -> Kernels:
        """What the source says of them. NVIDIA's FP8 is ModelOpt's, which vLLM multiplies in eight bits."""
        if "Marlin" in f"{self.format} {self.server_name}":
            return "marlin"
        return "native" if self.format == "FP8" and "nvidia" in self.known.backbone.lower() else "auto"

    def serving(self, targets: Mapping[str, Target]) -> Serving:
        """Describe the measured server."""
        name = "dgx-spark-x2" if self.gpus > 1 else "dgx-spark"
        return Serving(
            shape=self.known.shape,
            scheme=self.known.scheme(self.format, self.runtime),
            kv_dtype=self.kv_dtype,
            target=targets[name],
            target_name=name,
            runtime=self.runtime,
            batch=self.batch,
            context=self.prompt + self.answer if self.asked else self.prompt if self.prefill else self.context,
            output_tokens=self.answer if self.asked else 0,
            gpus=self.gpus,
            kernels=self.kernels,
        )

    def terms(self, targets: Mapping[str, Target], constants: Constants) -> dict[Cost, float]:
        """Take the measured time apart as it was measured, as an estimate does."""
        load = load_of(self.serving(targets), constants)
        if self.prefill:
            return prefill_terms(load, self.prompt)
        if not self.asked or self.batch == 1:
            return step_terms(load)
        running = queue_of(load, self.batch, self.answer).running
        return served_terms(replace(load, batch=running), self.answer, prompts=self.batch - 1)


@dataclass(frozen=True)
class Excluded:
    """A row that nothing is scored on."""

    line: int
    what: str
    reason: str


@dataclass(frozen=True)
class Measurements:
    """The file, sorted out."""

    folder: Path
    models_file: Path
    target: Target
    """The machine that all of it was measured on."""

    @cached_property
    def models(self) -> dict[str, Model]:
        """Every name whose dimensions are known."""
        entries: dict[str, dict[str, Any]] = yaml.safe_load(self.models_file.read_bytes())["models"]
        own = {name: self._model(name, entry) for name, entry in entries.items() if "like" not in entry}
        return own | {name: own[entry["like"]] for name, entry in entries.items() if "like" in entry}

    def model(self, name: str) -> Model | None:
        """Find what a name stands for: as the list says, else by the configuration of that name in the folder."""
        if name not in self.models:
            named = (
                file for file in self._configurations if name in (file.partition("--")[2], file.replace("--", "/"))
            )
            found = next((found for file in named if (found := self._of_file(file))), None)
            if found is None:
                return None
            self.models[name] = found
        return self.models[name]

    @cached_property
    def _configurations(self) -> tuple[str, ...]:
        ends = "_config.json"
        names = sorted(path.name for path in (self.folder / "model_configs").glob(f"*{ends}"))
        return tuple(name.removesuffix(ends) for name in names if not name.endswith("_hf_quant_config.json"))

    def _of_file(self, file: str) -> Model | None:
        """Read a configuration; None where its tensors are not known."""
        config = self._read(f"{file}_config.json")
        try:
            shape = shape_of(config)
        except ConfigInvalidError:
            return None
        beside = self.folder / "model_configs" / f"{file}_hf_quant_config.json"
        declared = self._read(beside.name) if beside.is_file() else config.get("quantization_config")
        schemes = _by_format(scheme_of_quant_config(declared)) if declared else {}
        kin = next((known.backbone for known in self.models.values() if _stack(known.shape) == _stack(shape)), file)
        return Model(kin, shape, schemes)

    def _model(self, name: str, entry: dict[str, Any]) -> Model:
        config = entry.get("config") or self._read(f"{entry['file']}_config.json")
        schemes = {}
        if config.get("quantization_config", {}).get("quant_method") == "mxfp4":
            schemes["MXFP4"] = scheme_of_quant_config(config["quantization_config"])
        for format_name, file in entry.get("quantization", {}).items():
            scheme = scheme_of_quant_config(self._read(f"{file}_hf_quant_config.json"))
            schemes[format_name] = replace(scheme, algorithm="FP8") if format_name == "FP8" else scheme
        return Model(name, shape_of(config), schemes)

    def _read(self, name: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.folder / "model_configs" / name).read_bytes())
        return document

    @cached_property
    def sorted_out(self) -> tuple[list[Row], list[Excluded]]:
        """The usable rows, and the others."""
        rows: list[Row] = []
        out: list[Excluded] = []
        with (self.folder / "spark_measurements.csv").open(encoding="utf-8", newline="") as file:
            for line, record in enumerate(csv.DictReader(file), 2):
                for prefill in (False, True):
                    found = self._row(line, record, prefill=prefill)
                    if isinstance(found, Row):
                        rows.append(found)
                    elif found is not None:
                        out.append(found)
        forbidden = {row.line: row for row in rows if self._impossible(row)}
        runs = {row.run for row in forbidden.values() if not row.prefill}
        kept = []
        for row in rows:
            if row.line in forbidden and (row.prefill == forbidden[row.line].prefill):
                out.append(Excluded(row.line, _what(row), self._why_impossible(row)))
            elif row.run in runs:
                reason = "same checkpoint and server as a row that physics forbids: its weights are not what it says"
                out.append(Excluded(row.line, _what(row), reason))
            else:
                kept.append(row)
        return kept, sorted(out, key=lambda one: one.line)

    def _row(self, line: int, record: dict[str, str], *, prefill: bool) -> Row | Excluded | None:
        value = record["prefill_tok_s" if prefill else "decode_tok_s"]
        if not value:
            return None
        what = f"{record['model']} {record['format']} {record['engine']} batch {record['batch']}"
        source = record["source"]
        reason = self._unusable(record, prefill=prefill)
        if reason:
            return Excluded(line, what, reason)
        prompt, answer = int(record["isl"] or 0), int(record["osl"] or 0)
        depth = _DEPTH.search(source)
        if prefill and (prompt < _LEAST_PROMPT or (depth and depth[1] != "0")):
            return None  # says nothing new of a row whose decode is used
        runtime, known = _runtime(record["engine"]), self.model(record["model"])
        assert runtime is not None  # noqa: S101 - `_unusable` looked
        assert known is not None  # noqa: S101 - as above
        return Row(
            line=line,
            model=record["model"],
            format=record["format"],
            runtime=runtime,
            server_name=record["engine"],
            source=source,
            known=known,
            batch=int(record["batch"]),
            prompt=prompt,
            answer=answer,
            context=_context(source, prompt, answer),
            gpus=2 if "2x" in record["engine"] else 1,
            kv_dtype="fp8" if "KV fp8" in source else "bf16",
            clients=runtime != "llama.cpp",
            prefill=prefill,
            measured=float(value),
        )

    def _unusable(self, record: dict[str, str], *, prefill: bool) -> str | None:
        if self.model(record["model"]) is None:
            return "the dimensions of this model are not known here"
        if not record["format"]:
            return "no format is given"
        if record["format"] not in _FORMATS:
            return f"what {record['format']} stores is not known here"
        if _runtime(record["engine"]) is None:
            return f"no such runtime here: {record['engine']}" if record["engine"] else "no runtime is given"
        if _SPECULATIVE.search(f"{record['engine']} {record['source']}") and not prefill:
            return "with accepted draft tokens, of which no count is given"
        return None

    def _impossible(self, row: Row) -> bool:
        return row.measured > self._limit(row)

    def _limit(self, row: Row) -> float:
        """Tokens per second that neither bandwidth nor tensor cores let pass."""
        gpu = self.target.gpu
        assert gpu is not None  # noqa: S101 - a Spark has one
        shape, scheme = row.known.shape, row.known.scheme(row.format, row.runtime)
        if row.prefill:
            active = 2.0 * shape.active_parameters
            return _NVFP4_PEAK * 125e12 * row.gpus / active
        once = weights_read_per_step(shape, scheme, 1) + row.batch * kv_bytes_read(shape, row.context, row.kv_dtype)
        return row.batch * gpu.memory_bandwidth * row.gpus / once

    def _why_impossible(self, row: Row) -> str:
        what = "the tensor cores allow" if row.prefill else "reading its weights once per step allows"
        return f"physics forbids {row.measured:g} tok/s: {what} at most {self._limit(row):.4g}"


def _by_format(scheme: Scheme) -> dict[str, Scheme]:
    """Give a checkpoint's scheme by every format of the file that it may be meant by."""
    algorithm = "FP8" if scheme.algorithm == "FP8_BLOCK" else scheme.algorithm
    return {name: scheme for name, known in _FORMATS.items() if scheme_of(known).algorithm == algorithm}


def _stack(shape: ModelShape) -> tuple[int, ...]:
    """Give the dimensions of a language model, which a model that also sees may share."""
    language = sum(tensor.elements for tensor in shape.tensors if tensor.role not in ("vision", "mtp"))
    return shape.hidden_size, len(shape.layers), shape.attention_heads, shape.key_value_heads, language


def _context(source: str, prompt: int, answer: int) -> int:
    depth = _DEPTH.search(source)
    if depth:
        return int(depth[1]) + 16  # llama-bench: 32 tokens after so many
    if "DandinPower" in source or "cookbook" in source:
        return max(1, answer // 2)  # llama-bench generates on an empty cache
    return prompt + answer // 2 or _SHORT


def _runtime(name: str) -> Runtime | None:
    return next((runtime for part, runtime in _RUNTIMES if part in name), None)


def _what(row: Row) -> str:
    return f"{row.model} {row.format} {row.server_name} batch {row.batch}{' prefill' if row.prefill else ''}"
