"""Determines the format of each tensor: by ModelOpt's default rules, or by a checkpoint's own configuration."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field, replace
from functools import cache, cached_property
from types import MappingProxyType
from typing import Literal, get_args

from orchestrator.errors import ConfigInvalidError
from orchestrator.models.files import QUANT_CONFIG, ModelFiles, an_object
from orchestrator.models.shape import Tensor
from orchestrator.values import frozen

Algorithm = Literal[
    "BF16",
    "FP8",
    "FP8_BLOCK",
    "NVFP4",
    "W4A16_NVFP4",
    "MXFP4",
    "INT4_AWQ",
    "PACKED",
    "F32",
    "Q8_0",
    "Q4_0",
    "Q4_K",
    "Q5_K",
    "Q6_K",
]
"""The algorithm of a matrix: ModelOpt's names; `FP8_BLOCK`: a scale for 128 x 128; `Q…`: llama.cpp's block formats.

`PACKED`: another packing, such as GPTQ's, whose bytes only headers give.
"""

KvDtype = Literal["bf16", "fp8", "nvfp4"]

FORMATS: Mapping[str, Algorithm] = MappingProxyType(
    {
        "bf16": "BF16",
        "fp8": "FP8",
        "fp8_block_scale": "FP8_BLOCK",
        "nvfp4": "NVFP4",
        "w4a16_nvfp4": "W4A16_NVFP4",
        "mxfp4": "MXFP4",
        "int4_awq": "INT4_AWQ",
    }
)
"""Formats of checkpoints by their names in recipes, with the algorithm of the quantized matrices."""

GGUF_FORMATS = ("q8_0", "q4_0", "q4_k_m", "f16", "gguf_mxfp4")
"""Supported formats of llama.cpp's files."""

_MODELOPT: Mapping[str, Algorithm] = MappingProxyType(
    {
        "FP8": "FP8",
        "FP8_PB_WO": "FP8_BLOCK",
        "FP8_BLOCK_SCALES": "FP8_BLOCK",
        "NVFP4": "NVFP4",
        "W4A16_NVFP4": "W4A16_NVFP4",
        "MXFP4": "MXFP4",
        "W4A16_AWQ": "INT4_AWQ",
        "INT4_AWQ": "INT4_AWQ",
    }
)
_OWN_EXPERT = re.compile(r"experts\.\d")


@frozen(eq=False)
class Scheme:
    """How a checkpoint stores its tensors. It equals only itself, so that sums can be cached."""

    name: str
    """For people: a format's name, or the file that declares it."""
    algorithm: Algorithm
    """The algorithm of quantized matrices."""
    exclude: tuple[str, ...] | None = None
    """Modules that are not quantized, names or shell patterns; None: ModelOpt's default exclusions."""
    modules: Mapping[str, Algorithm] | None = None
    """Mixed precision: the quantized modules by name or pattern, with all that they contain. No other is."""
    kv_cache: KvDtype = "bf16"
    """The format of the KV cache, if the checkpoint declares it."""
    kv_scales: bool = False
    """The checkpoint has two scales per attention layer."""
    gguf: str | None = None
    """The name of a whole-file format of llama.cpp, whose own rules choose per tensor."""
    native: bool = False
    """The publisher's own layout and names, not ModelOpt's."""
    as_stored: bool = False
    """The checkpoint whose headers were read: its bytes are those of the headers."""
    packing: str | None = None
    """The publisher's name of another packing."""
    extra_exclude: tuple[str, ...] = field(default=())
    """More modules that are not quantized, besides the defaults: a recipe's `quantization.exclude`."""

    @property
    def label(self) -> str:
        """The main format: llama.cpp's name of a file's format or another packing's, else that of the algorithm."""
        return (self.gguf or self.packing or self.algorithm).upper()

    def split(self, tensor: Tensor, layers: int) -> Iterator[tuple[Algorithm, int]]:
        """Return how a tensor is stored: algorithms, and how many of the equal tensors each has.

        Args:
            tensor: The tensor.
            layers: Layers of the model. Some of llama.cpp's choices depend on it.
        """
        if self.gguf is not None:
            yield _gguf(self.gguf, tensor, layers), tensor.count
        elif not tensor.linear or self.algorithm == "BF16":
            yield tensor.dtype, tensor.count
        elif self.modules is not None:
            yield from self._mixed(tensor, self.modules)
        else:
            kept = tensor.count if self._spared(tensor) else self._excluded(tensor)
            if kept:
                yield tensor.dtype, kept
            if kept < tensor.count:
                yield self.algorithm, tensor.count - kept

    def _spared(self, tensor: Tensor) -> bool:
        """Tell whether a tensor is excluded if no list names it. Publishers exclude only the output head."""
        if self.exclude is not None:
            return False
        return tensor.role == "head" if self.native else not tensor.quantizable

    def _excluded(self, tensor: Tensor) -> int:
        if not self._literals and self._globs is None:
            return 0
        if tensor.count > 1 and not tensor.stacked and self._names_experts:
            return sum(self._matches(tensor.module.format(number)) for number in range(tensor.count))
        return tensor.count if self._matches(tensor.module.format(0) if tensor.count > 1 else tensor.module) else 0

    def _mixed(self, tensor: Tensor, modules: Mapping[str, Algorithm]) -> Iterator[tuple[Algorithm, int]]:
        counts: dict[Algorithm, int] = {}
        several = tensor.count > 1 and not tensor.stacked
        names = [tensor.module.format(number) for number in range(tensor.count)] if several else [tensor.module]
        for name in names:
            listed = next((parent for parent in _with_parents(name) if parent in modules), None)
            algorithm = modules[listed] if listed else self._by_pattern(name, modules) or tensor.dtype
            counts[algorithm] = counts.get(algorithm, 0) + tensor.count // len(names)
        yield from counts.items()

    def _by_pattern(self, name: str, modules: Mapping[str, Algorithm]) -> Algorithm | None:
        return next((modules[pattern] for pattern in self._patterns if fnmatch.fnmatchcase(name, pattern)), None)

    @cached_property
    def _patterns(self) -> tuple[str, ...]:
        return tuple(name for name in self.modules or () if "*" in name or "?" in name)

    @cached_property
    def _all(self) -> tuple[str, ...]:
        return (*(self.exclude or ()), *self.extra_exclude)

    @cached_property
    def _literals(self) -> frozenset[str]:
        return frozenset(
            pattern for pattern in self._all if not any(sign in pattern for sign in ("*", "?", "[", "re:"))
        )

    @cached_property
    def _globs(self) -> re.Pattern[str] | None:
        globs = [_expression(pattern) for pattern in self._all if pattern not in self._literals]
        try:
            return re.compile("|".join(globs)) if globs else None
        except re.error as error:
            message = f"{self.name}: a pattern of what is not quantized cannot be read: {error}"
            raise ConfigInvalidError(message) from error

    @cached_property
    def _names_experts(self) -> bool:
        return any(_OWN_EXPERT.search(pattern) for pattern in self._all)

    def _matches(self, module: str) -> bool:
        """Tell whether a module, or one of its parents, is excluded."""
        parents = _with_parents(module)
        if not self._literals.isdisjoint(parents):
            return True
        return self._globs is not None and any(self._globs.match(parent) for parent in parents)

    def insist_on_modules(self, tensors: Iterable[Tensor]) -> None:
        """Refuse a name of mixed precision that no module of a model has.

        Raises:
            ConfigInvalidError: Names the first.
        """
        if self.modules is None:
            return
        modules = {
            parent
            for tensor in tensors
            for number in range(1 if tensor.stacked else tensor.count)
            for parent in _with_parents(tensor.module.format(number))
        }
        lost = next((n for n in self.modules if n not in modules and not fnmatch.filter(modules, n)), None)
        if lost is not None:
            message = f"{self.name}: quantized_layers: {lost:.120}: the model has no such module"
            raise ConfigInvalidError(message, hint="The list belongs to another model or revision.")


@cache
def scheme_of(
    format_name: str, *, kv_cache: KvDtype = "bf16", kv_scales: bool = False, exclude: tuple[str, ...] = ()
) -> Scheme:
    """Return the scheme of a format, with ModelOpt's default exclusions.

    Args:
        format_name: One of `FORMATS` or `GGUF_FORMATS`, in any case.
        kv_cache: The format of the cache.
        kv_scales: The checkpoint has scales for it.
        exclude: More modules that are not quantized.

    Raises:
        ConfigInvalidError: No such format.
    """
    name = format_name.lower()
    if name in GGUF_FORMATS:
        return Scheme(name, "BF16", gguf=name, kv_cache=kv_cache)
    if name not in FORMATS:
        message = f"no format is called {format_name!r:.60}"
        raise ConfigInvalidError(message, hint=f"there are: {', '.join((*FORMATS, *GGUF_FORMATS))}")
    return Scheme(
        name,
        FORMATS[name],
        kv_cache=kv_cache,
        kv_scales=kv_scales,
        extra_exclude=exclude,
        native=name in ("mxfp4", "fp8_block_scale"),
    )


def as_published(scheme: Scheme) -> Scheme:
    """Return what publishers make of a format, if their file is not at hand: linear attention stays as it is.

    So it is in NVIDIA's Qwen3.5 in NVFP4, and in llm-compressor's FP8 (examples/quantization_w8a8_fp8/qwen3_5_moe.py).
    ModelOpt's defaults, which this tool's quantizers follow, quantize it.
    """
    quantized = scheme.algorithm in ("FP8", "NVFP4", "W4A16_NVFP4", "INT4_AWQ")
    if not quantized or scheme.exclude is not None or scheme.modules is not None:
        return scheme
    return replace(scheme, extra_exclude=(*scheme.extra_exclude, "*linear_attn*"))


def scheme_of_files(files: ModelFiles) -> Scheme | None:
    """Return how a checkpoint is stored; None if it declares no quantization. With headers, any packing is known.

    Raises:
        ConfigInvalidError: What it declares contradicts itself, or is not known without headers.
    """
    document, where = files.quantization, f"{QUANT_CONFIG} of {files.where}"
    if document is None:
        inside = files.config.get("quantization_config")
        if inside is None:
            return None
        where = f"quantization_config of {files.where}"
        document = an_object(inside, where)
    method, stored = document.get("quant_method"), files.weights is not None
    if stored and isinstance(method, str) and _is_packing(method, document):
        return Scheme(where, "PACKED", packing=method, as_stored=True)
    found = replace(scheme_of_quant_config(document, where), as_stored=stored)
    found.insist_on_modules(files.shape.tensors)
    return found


def _with_parents(module: str) -> list[str]:
    """Return a module and its parents, the innermost first."""
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def _is_packing(method: str, document: Mapping[str, object]) -> bool:
    """Tell whether only headers give the bytes of a checkpoint."""
    if method == "fp8":
        return document.get("weight_block_size") != [128, 128]
    groups = document.get("config_groups")
    if method == "compressed-tensors":
        return isinstance(groups, Mapping) and len(groups) > 1
    return method != "mxfp4" and not method.startswith("modelopt")


def scheme_of_quant_config(document: Mapping[str, object], where: str = "hf_quant_config.json") -> Scheme:
    """Read the quantization of a published checkpoint.

    Args:
        document: hf_quant_config.json, or `quantization_config` of config.json.
        where: Its name in messages.

    Raises:
        ConfigInvalidError: Its kind is not supported, or it contradicts itself.
    """
    inner = document.get("quantization")
    if isinstance(inner, Mapping):
        return _of_modelopt(inner, where, "exclude_modules")
    match document.get("quant_method"):
        case "mxfp4":
            exclude = _strings(document, "modules_to_not_convert", where)
            return Scheme(where, "MXFP4", exclude=exclude, native=True)
        case "fp8":
            if document.get("weight_block_size") != [128, 128]:
                found = document.get("weight_block_size")
                message = f"{where}: weight_block_size: found {found!r:.60}, expected [128, 128]"
                raise ConfigInvalidError(message)
            return Scheme(where, "FP8_BLOCK", exclude=_strings(document, "modules_to_not_convert", where), native=True)
        case "compressed-tensors":
            return _of_compressed_tensors(document, where)
        case str(method) if not method.startswith("modelopt"):
            known = "modelopt, compressed-tensors, fp8 or mxfp4"
            message = f"{where}: quant_method: found {method!r:.60}, expected {known}"
            raise ConfigInvalidError(message)
        case _ if "quant_algo" in document:
            return _of_modelopt(document, where, "ignore")
        case _:
            message = (
                f"{where}: neither quantization.quant_algo nor quant_method is here: this describes no quantization"
            )
            raise ConfigInvalidError(message)


def _of_modelopt(part: Mapping[str, object], where: str, exclude_key: str) -> Scheme:
    algorithm = part.get("quant_algo")
    cache = part.get("kv_cache_quant_algo", part.get("kv_cache_scheme"))
    kv_cache = _cache_dtype(cache, where)
    if algorithm == "MIXED_PRECISION":
        return Scheme(where, "FP8", modules=_layers(part, where), kv_cache=kv_cache, kv_scales=cache is not None)
    if not isinstance(algorithm, str) or algorithm.upper() not in _MODELOPT:
        message = f"{where}: quant_algo: found {algorithm!r:.60}, expected one of {', '.join(_MODELOPT)}"
        raise ConfigInvalidError(message)
    exclude = _strings(part, exclude_key, where) if part.get(exclude_key) is not None else None
    return Scheme(where, _MODELOPT[algorithm.upper()], exclude=exclude, kv_cache=kv_cache, kv_scales=cache is not None)


def _cache_dtype(cache: object, where: str) -> KvDtype:
    """Read the format of the cache: a name, or a number of bits."""
    if cache is None:
        return "bf16"
    if isinstance(cache, Mapping):
        cache = {8: "FP8", 4: "NVFP4"}.get(cache.get("num_bits", 0), cache)
    if cache not in ("FP8", "NVFP4"):
        message = f"{where}: kv_cache_quant_algo: found {cache!r:.60}, expected FP8 or NVFP4"
        raise ConfigInvalidError(message)
    return "fp8" if cache == "FP8" else "nvfp4"


def _of_compressed_tensors(document: Mapping[str, object], where: str) -> Scheme:
    """Read the configuration that llm-compressor writes, if all linear layers are quantized alike.

    Its scales have other names than ModelOpt's. With one per tensor the bytes are equal; one per channel counts as one.
    """
    groups = document.get("config_groups")
    group = next(iter(groups.values())) if isinstance(groups, Mapping) and len(groups) == 1 else None
    weights = group.get("weights") if isinstance(group, Mapping) else None
    if not isinstance(group, Mapping) or not isinstance(weights, Mapping) or group.get("targets") != ["Linear"]:
        message = f"{where}: config_groups: expected one group of weights whose targets are Linear"
        raise ConfigInvalidError(message)
    bits = (weights.get("type"), weights.get("num_bits"), weights.get("group_size"))
    algorithm: Algorithm
    match bits:
        case ("float", 4, 16):
            algorithm = "NVFP4" if group.get("input_activations") else "W4A16_NVFP4"
        case ("float", 4, 32):
            algorithm = "MXFP4"
        case ("float", 8, _):
            algorithm = "FP8_BLOCK" if weights.get("strategy") == "block" else "FP8"
        case ("int", 4, 128):
            algorithm = "INT4_AWQ"
        case _:
            message = f"{where}: weights of type {bits[0]!r:.20}, {bits[1]!r:.20} bits, groups of {bits[2]!r:.20}"
            raise ConfigInvalidError(message, hint="known are NVFP4, MXFP4, FP8 and INT4 in groups of 128")
    cache = document.get("kv_cache_scheme")
    return Scheme(
        where,
        algorithm,
        exclude=_strings(document, "ignore", where) or (),
        kv_cache=_cache_dtype(cache, where),
        kv_scales=cache is not None,
    )


def _layers(part: Mapping[str, object], where: str) -> Mapping[str, Algorithm]:
    layers = part.get("quantized_layers")
    if not isinstance(layers, Mapping) or not layers:
        message = f"{where}: quantized_layers is missing, and MIXED_PRECISION says nothing without it"
        raise ConfigInvalidError(message)
    found: dict[str, Algorithm] = {}
    for name, entry in layers.items():
        algorithm = entry.get("quant_algo") if isinstance(entry, Mapping) else None
        if not isinstance(algorithm, str) or algorithm.upper() not in _MODELOPT:
            message = f"{where}: quantized_layers: {name}: quant_algo: found {algorithm!r:.60}"
            raise ConfigInvalidError(message, hint=f"known are: {', '.join(_MODELOPT)}")
        found[str(name)] = _MODELOPT[algorithm.upper()]
    return found


def _strings(part: Mapping[str, object], key: str, where: str) -> tuple[str, ...] | None:
    value = part.get(key)
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not all(isinstance(entry, str) for entry in value):
        message = f"{where}: {key}: found {value!r:.80}, expected a list of names"
        raise ConfigInvalidError(message)
    return tuple(value)


def _gguf(name: str, tensor: Tensor, layers: int) -> Algorithm:  # noqa: PLR0911 - a table of rules, first match wins
    """Choose as llama.cpp's quantizer does (llama_tensor_get_type). Vectors and routers are not quantized."""
    if len(tensor.shape) == 1 or tensor.role == "router":
        return "F32"
    if name == "f16" or len(tensor.shape) != 2:  # noqa: PLR2004 - not a matrix
        return "BF16"  # as many bits as F16
    if name == "gguf_mxfp4":  # gpt-oss: the experts as published, the rest in Q8_0
        return "MXFP4" if tensor.role == "expert" else "Q8_0"
    if name == "q8_0":
        return "Q8_0"
    if tensor.role == "head" or (tensor.role == "embedding" and tensor.used == 1):
        return "Q6_K"
    if name == "q4_0":
        return "Q4_0"
    leaf = tensor.module.rpartition(".")[2]
    number = tensor.layer or 0
    more = number < layers // 8 or number >= 7 * layers // 8 or (number - layers // 8) % 3 == 2  # noqa: PLR2004 - its rule
    return "Q6_K" if more and leaf in ("v_proj", "down_proj", "w2") else "Q4_K"


def _expression(pattern: str) -> str:
    """Turn a shell pattern, or a regular expression marked as one, into a regular expression."""
    return f"(?:{pattern[3:]})" if pattern.startswith("re:") else fnmatch.translate(pattern)


ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
