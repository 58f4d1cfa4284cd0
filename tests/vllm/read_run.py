"""Lets vLLM's own parser and configuration classes read commands and checkpoints, on a machine without a GPU.

    python read_run.py WHEEL ROWS.json    writes a list of answers to standard output, in JSON

WHEEL is a folder with vLLM's Python files. Some things stand in for what needs CUDA: a platform that names a GB10, the
module of flash attention, what kernels say that they support, and what vLLM learns of a model by importing its class.
All else is vLLM's.
"""
# mypy: disable-error-code="import-not-found, misc"
# ruff: noqa: ANN401, ARG003, SLF001, T201 - runs where vLLM is, whose private names and types are not here

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import sys
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import MagicMock

sys.path.insert(0, sys.argv[1])
sys.modules["vllm.vllm_flash_attn"] = MagicMock()  # imported with the layers, and refuses to be without its kernels

import torch  # noqa: E402
from vllm import platforms  # noqa: E402
from vllm.platforms.interface import DeviceCapability, Platform, PlatformEnum  # noqa: E402


class Gb10(Platform):
    """What the platform of CUDA says of a DGX Spark, as far as configurations ask."""

    _enum = PlatformEnum.CUDA
    device_name = "cuda"
    device_type = "cuda"
    dispatch_key = "CUDA"
    dist_backend = "nccl"
    supported_quantization: ClassVar[list[str]] = []  # empty: not checked

    @classmethod
    def get_device_capability(cls, device_id: int = 0) -> Any:
        """Return that of GB10."""
        return DeviceCapability(12, 1)

    @classmethod
    def get_device_name(cls, device_id: int = 0) -> str:
        """Return the driver's name."""
        return "NVIDIA GB10"

    @classmethod
    def get_device_total_memory(cls, device_id: int = 0) -> int:
        """Return bytes."""
        return 128 * 10**9

    @classmethod
    def device_count(cls) -> int:
        """Return one."""
        return 1

    @classmethod
    def support_hybrid_kv_cache(cls) -> bool:
        """Return what CUDA's platform does."""
        return True


platforms._current_platform = Gb10()
for name in (
    "scaled_mm_supports_fp8",
    "scaled_mm_supports_block_fp8",
    "scaled_mm_supports_fp4",
    "group_gemm_supported",
):
    setattr(torch.ops._C, f"cutlass_{name}", lambda _: True)

from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: E402
from vllm.model_executor.models import registry  # noqa: E402
from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: E402

try:
    from vllm.entrypoints.openai.cli_args import make_arg_parser, validate_parsed_serve_args
except ModuleNotFoundError:  # moved between 0.27.1 and 0.33.0
    from vllm.entrypoints.common.cli_args import make_arg_parser, validate_parsed_serve_args


def about(model: Any) -> Any:
    """Return what vLLM would learn of a class of ours by importing it: it generates text."""
    generates = {"is_text_generation_model", "supports_pp", "is_hybrid" if "Jamba" in model.class_name else ""}
    known = {
        field.name: model.class_name if field.name == "architecture" else field.name in generates
        for field in dataclasses.fields(registry._ModelInfo)
        if field.default is dataclasses.MISSING or field.name in generates
    }
    for field in dataclasses.fields(registry._ModelInfo):
        if field.name in known and "bool" not in str(field.type) and field.name != "architecture":
            known[field.name] = {"attn_type": "decoder"}.get(field.name)
    return registry._ModelInfo(**known)


registry._LazyRegisteredModel.inspect_model_cls = about


def answer(words: list[str]) -> dict[str, Any]:
    """Read one command as `vllm serve` does before it starts an engine."""
    asked = make_arg_parser(FlexibleArgumentParser()).parse_args(words)
    asked.model = getattr(asked, "model_tag", None) or asked.model
    validate_parsed_serve_args(asked)
    config = AsyncEngineArgs.from_cli_args(asked).create_engine_config()
    method = config.model_config.quantization
    read = config.quant_config
    return {
        "quantization": method,
        "reads": type(read).__name__ if read else None,
        "excluded": sorted(getattr(read, "exclude_modules", None) or ()),
        "cache": config.cache_config.cache_dtype,
        "cache_bytes": config.cache_config.kv_cache_memory_bytes,
        "drafts": config.speculative_config.method if config.speculative_config else None,
        "sequences": config.scheduler_config.max_num_seqs,
    }


def main() -> None:
    """Answer each row: what vLLM made of it, or its refusal."""
    answers = []
    for row in json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")):
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                answers.append({"name": row["name"], **answer(row["words"])})
        except (Exception, SystemExit) as error:  # noqa: BLE001 - any is a refusal
            answers.append(
                {"name": row["name"], "refused": f"{type(error).__name__}: {error} {said.getvalue()[-300:]}"}
            )
    print(json.dumps(answers))


main()
