"""Checks whether a checkpoint is complete, sound and close enough to its original.

Each check reports what it found. A failure reports what was expected. Checks that do not apply to a format or an
architecture are listed as skipped, with the reason, and never count as passed.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.errors import (
    CheckFailedError,
    CheckpointError,
    DependencyMissingError,
    ModelUnsupportedError,
    QualityTooLowError,
)
from orchestrator.events import Progress, silence
from orchestrator.models.weight_files import INDEX, own_weights, unrelated_files
from orchestrator.quantization import chat_template, configs, layout, packed, smoothing, structure, token_ids
from orchestrator.quantization.agreement import require_agreeing_names, require_declared_architecture
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.experts import split_experts, split_quantized
from orchestrator.quantization.files import read_json
from orchestrator.quantization.frequencies import require_calculated
from orchestrator.quantization.schemes import SCHEMES
from orchestrator.quantization.tensors import FLOATS, TensorSpec
from orchestrator.quantization.tied import has_own_head
from orchestrator.values import frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from orchestrator.events import Observer
    from orchestrator.quantization.schemes import Scheme
    from orchestrator.quantization.tensors import StoredTensor

UNQUANTIZED = "bf16"
CHUNK_BYTES = 4_000_000  # comparing takes about 25 times as much, in FP64

_FLOATS = ("F8_E5M2", "F8_E4M3", "F8_E8M0", "F16", "BF16", "F32", "F64")
_SCALES = ("weight_scale", "weight_scale_2", "weight_scale_inv", "input_scale", "k_scale", "v_scale", "_scales")
_SHARED = ("weight_scale_2", "input_scale")
"""Scales that must be equal among fused modules."""
_BY_ALGORITHM = {scheme.algorithm: scheme for scheme in SCHEMES.values()}
_E8M0_NAN = 255
_COMPARED = {"kl_divergence", "perplexity"}
"""Checks of the model's predictions."""


@frozen
class Check:
    """One check and its result."""

    name: str
    passed: bool
    detail: str
    warning: bool = False
    """Whether it passed, but is worse than normal for the format."""


@frozen
class Skipped:
    """A check that was skipped."""

    name: str
    reason: str


@frozen
class LayerQuality:
    """The similarity of one quantized module to its original."""

    name: str
    snr_db: float | None
    """Power of the original over power of the difference, in decibels; None if there is no difference."""


@frozen
class Report:
    """All results."""

    format: str
    checks: tuple[Check, ...]
    skipped: tuple[Skipped, ...] = ()
    layers: tuple[LayerQuality, ...] = ()
    advice: str = ""
    """Changes to the recipe that would meet the limits; empty if they are met without a warning."""

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.passed for check in self.checks)

    def document(self) -> dict[str, Any]:
        """Return the content of `quality.json`."""
        measured = [layer.snr_db for layer in self.layers if layer.snr_db is not None]
        return {
            "format": self.format,
            "passed": self.passed,
            "checks": [asdict(check) for check in self.checks],
            "advice": self.advice,
            "skipped": [asdict(skipped) for skipped in self.skipped],
            "layers": [asdict(layer) for layer in self.layers],
            "snr_db": {
                "min": min(measured, default=None),
                "mean": round(math.fsum(measured) / len(measured), 3) if measured else None,
            },
        }

    def require(self) -> None:
        """Raise if a check failed.

        Raises:
            QualityTooLowError: Only the limits on the difference to the original are not met.
            CheckFailedError: Some other checks failed. Each is named with its result.
        """
        failed = [check for check in self.checks if not check.passed]
        if failed:
            kind = QualityTooLowError if {check.name for check in failed} <= _COMPARED else CheckFailedError
            raise kind("\n".join(f"{check.name}: {check.detail}" for check in failed), hint=self.advice)


def examine(
    folder: Path,
    *,
    reference: Path | None = None,
    min_snr_db: float | None = None,
    chat_template: bool = True,
    observer: Observer = silence,
    chunk_bytes: int = CHUNK_BYTES,
) -> Report:
    """Check a checkpoint, quantized or not.

    Args:
        folder: The checkpoint.
        reference: Its unquantized original.
        min_snr_db: The least signal-to-noise ratio of each quantized module.
        chat_template: Whether a chat template is required.
        observer: Gets the progress in tensors.
        chunk_bytes: Bytes of a tensor in memory at a time.

    Raises:
        CheckpointError: The reference cannot be read. A bad checkpoint does not raise but fails checks.
    """
    original = None if reference is None else packed.opened(reference)[0]
    examination = _Examination(folder, original, reference, min_snr_db, observer, chunk_bytes, chat_template)
    return examination.run()


def has_chat_template(folder: Path) -> bool:
    """Tell whether a checkpoint has a chat template."""
    return bool(chat_template.read_templates(folder))


class _SkippedError(Exception):
    """A check does not apply. The message has the reason."""


@frozen
class _Quantization:
    """The content of both configuration files."""

    algorithm: str | None
    """ModelOpt's `quant_algo`; None if nothing is quantized, or not in ModelOpt's format."""
    name: str
    """The format's name for people."""
    excluded: tuple[str, ...] = ()
    """Patterns of modules that are not quantized."""
    layers: Mapping[str, str] = field(default_factory=dict)
    """If modules differ: `quant_algo` of each quantized one. All others are not quantized."""

    @property
    def algorithms(self) -> set[str | None]:
        """Every algorithm in use."""
        return set(self.layers.values()) or {self.algorithm}

    def algorithm_of(self, module: str) -> str | None:
        """Return the algorithm of a linear module; None if it is not quantized."""
        if self.layers:
            return self.layers.get(module, self.layers.get(layout.listed_as(module)))
        return None if layout.matches(module, self.excluded) else self.algorithm


@frozen
class _Original:
    """The original, in the units of a checkpoint whose inputs may be smoothed."""

    checkpoint: Checkpoint
    smoothed: Mapping[str, NDArray[np.int8]]
    """The exponents of the tensors that were multiplied by powers of two."""

    @classmethod
    def of(cls, quantized: Checkpoint, original: Checkpoint) -> _Original:
        return cls(original, smoothing.read(quantized, original))

    def rows(self, name: str, chunk_bytes: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Read a tensor in runs of rows, see `Checkpoint.rows`."""
        exponents = self.smoothed.get(name)
        for first, rows in self.checkpoint.rows(name, chunk_bytes):
            if exponents is None:
                yield first, rows
            else:
                some = exponents if rows.ndim > 1 else exponents[first : first + len(rows)]
                yield first, np.ldexp(rows.astype(np.float32), some)


@dataclass
class _Examination:
    """One run over a checkpoint. Later checks use what earlier ones read."""

    folder: Path
    original: Checkpoint | None
    reference: Path | None
    min_snr_db: float | None
    observer: Observer
    chunk_bytes: int
    chat_template: bool
    _checks: list[Check] = field(default_factory=list)
    _skipped: list[Skipped] = field(default_factory=list)
    _layers: list[LayerQuality] = field(default_factory=list)
    _config: dict[str, Any] = field(default_factory=dict)
    _quantization: _Quantization = field(default_factory=lambda: _Quantization(None, "unknown"))
    _checkpoint: Checkpoint | None = None
    _tokenizer: Tokenizer | None = None
    _message: Sequence[int] = ()
    """One message in tokens, if it could be tokenized."""
    _ending: str | None = None
    """The token by which the chat template ends an answer, if it is known."""

    def run(self) -> Report:
        """Run every check whose requirements passed."""
        configured = self._ask("configuration", self._read_configuration)
        self._ask("tokenizer", self._check_tokenizer)
        self._ask("chat_template", self._check_chat_template)
        if self._ask("files", self._open) and self._checkpoint is not None:
            self._ask_about_tensors(self._checkpoint, configured=configured)
        return Report(self._quantization.name, tuple(self._checks), tuple(self._skipped), tuple(self._layers))

    def _ask_about_tensors(self, checkpoint: Checkpoint, *, configured: bool) -> None:
        self._ask("token_ids", lambda: self._check_token_ids(checkpoint))
        complete = configured and self._ask("tensors", lambda: self._check_tensors(self._split(checkpoint)))
        found = self._checkpoint or checkpoint
        finite = self._ask("numbers", lambda: self._check_numbers(found))
        self._ask("fused_scales", lambda: self._check_fused(found))
        if complete and finite:
            self._ask("unquantized", lambda: self._compare_unquantized(found))
            self._ask("signal_to_noise", lambda: self._measure(found))
        else:
            self._skipped.append(Skipped("signal_to_noise", "needs complete tensors with finite numbers"))

    def _split(self, checkpoint: Checkpoint) -> Checkpoint:
        """Give experts the same names in the checkpoint and in its original."""
        if self.original is None or not self._quantization.algorithms <= set(layout.ALGORITHMS):
            return checkpoint
        config = structure.untied(self._config) if has_own_head(self.original, self._config) else self._config
        model = structure.read(config, self.original.tensors.values())
        self.original = split_experts(self.original, config, model)
        self._checkpoint = split_quantized(checkpoint, self.original)
        return self._checkpoint

    def _ask(self, name: str, question: Callable[[], str]) -> bool:
        """Run one check; return whether it ran and passed."""
        try:
            check = Check(name, passed=True, detail=question())
        except _SkippedError as reason:
            self._skipped.append(Skipped(name, str(reason)))
            return False
        except (CheckFailedError, CheckpointError) as error:
            check = Check(name, passed=False, detail=error.message)
        self._checks.append(check)
        return check.passed

    def _read_configuration(self) -> str:
        self._config = read_json(self.folder / configs.CONFIG)
        architecture = structure.architecture_of(self._config)
        require_agreeing_names(self._config)
        self._quantization = _quantization(self.folder, self._config)
        return f"{architecture}, {self._quantization.name}"

    def _check_tokenizer(self) -> str:
        read_json(self.folder / chat_template.TOKENIZER_CONFIG)
        file = self.folder / token_ids.TOKENIZER
        if file.is_file():
            return self._load_tokenizer()
        if (self.folder / "tokenizer.model").is_file():
            return "tokenizer.model is there and tokenizer_config.json parses"
        message = f"{self.folder}: found neither tokenizer.json nor tokenizer.model"
        raise CheckFailedError(message)

    def _check_chat_template(self) -> str:
        templates = chat_template.read_templates(self.folder)
        if templates:
            return self._render_a_message(templates)
        if not self.chat_template:
            reason = "the recipe asks for none"
            raise _SkippedError(reason)
        if self.reference is not None and not has_chat_template(self.reference):
            reason = "the reference has none either: a base model, served with plain completions"
            raise _SkippedError(reason)
        message = f"{self.folder}: found no chat_template in tokenizer_config.json and no chat_template.jinja"
        raise CheckFailedError(message)

    def _load_tokenizer(self) -> str:
        count = len(token_ids.Vocabulary.read(self.folder).ids)
        found = f"{token_ids.TOKENIZER} and {chat_template.TOKENIZER_CONFIG} parse: {count} tokens"
        try:
            self._tokenizer = token_ids.load(self.folder)
        except DependencyMissingError as error:
            return f"{found}; {error.message}"
        return found

    def _render_a_message(self, templates: Mapping[str, str]) -> str:
        """Render one message and tokenize it, as far as the libraries for it are here."""
        try:
            text = chat_template.render(self.folder, templates)
        except DependencyMissingError as error:
            raise _SkippedError(error.message) from None
        if self._tokenizer is None:
            return f"a message becomes {len(text)} characters, which are not tokenized here"
        self._message = self._tokenizer.encode(text, add_special_tokens=False).ids
        self._ending = token_ids.first_special(self._tokenizer, chat_template.end_of_answer(self.folder, templates))
        return f"a message becomes {len(text)} characters and {len(self._message)} tokens"

    def _check_token_ids(self, checkpoint: Checkpoint) -> str:
        try:
            embedding = structure.read(self._config, checkpoint.tensors.values()).embedding
        except ModelUnsupportedError as error:
            raise _SkippedError(error.message) from None
        rows = checkpoint.tensors[f"{embedding}.weight"].shape[0]
        return token_ids.check(self.folder, self._config, rows, self._message, self._ending)

    def _open(self) -> str:
        checkpoint = Checkpoint.open(self.folder)
        _require_no_other_weights(self.folder)
        self._checkpoint = checkpoint
        size = sum(tensor.size for tensor in self._checkpoint.tensors.values())
        return f"{len(self._checkpoint.tensors)} tensors, {size} bytes"

    def _check_tensors(self, checkpoint: Checkpoint) -> str:
        if has_own_head(checkpoint, self._config):
            message = "config.json ties the head to the embedding, so runtimes ignore the stored head, which differs"
            raise CheckFailedError(message)
        config = self._config
        if self.original is not None and has_own_head(self.original, config):
            config = structure.untied(config)
        source = {spec.name: spec for spec in _unquantized(self.original or checkpoint)}
        if self._quantization.name == UNQUANTIZED or self.original is not None:
            require_declared_architecture(config, list(source.values()))
        require_calculated(checkpoint, config)
        layout.declared_type(config)  # one that no runtime computes in is an error
        expected = _expected(config, list(source.values()), self._quantization)
        for name, spec in expected.items():
            if name not in checkpoint.tensors:
                message = f"{name} is missing; expected {spec.dtype} {list(spec.shape)}"
                raise CheckFailedError(message)
            found = checkpoint.tensors[name]
            # The writer of an unquantized checkpoint chooses among these types.
            types = FLOATS if spec is source.get(name) and spec.dtype in FLOATS else (spec.dtype,)
            if found.dtype not in types or found.shape != spec.shape:
                message = f"{found.file.name}: found {found}, expected {spec.dtype} {list(spec.shape)}"
                raise CheckFailedError(message)
        redundant = structure.read(config, source.values()).is_redundant
        for name, found in checkpoint.tensors.items():
            if name not in expected and not redundant(name) and not name.endswith(("k_scale", "v_scale")):
                message = f"{found.file.name}: found {found}, which this model does not have"
                raise CheckFailedError(message)
        return f"all {len(expected)} tensors have the expected type and shape"

    def _check_numbers(self, checkpoint: Checkpoint) -> str:
        count = 0
        names = list(checkpoint.tensors)
        for position, name in enumerate(names, start=1):
            self.observer(Progress(position, len(names), "tensors", f"numbers of {name}"))
            count += _check_tensor_numbers(checkpoint, checkpoint.tensors[name], self.chunk_bytes)
        return f"{count} floating-point tensors are finite, and every scale is above zero"

    def _check_fused(self, checkpoint: Checkpoint) -> str:
        modules = [name.rpartition(".")[0] for name in checkpoint.tensors if name.endswith(_SHARED)]
        groups = [group for group in layout.fusion_groups(dict.fromkeys(modules)) if len(group) > 1]
        if not groups:
            reason = "no modules that engines fuse have scales that must agree"
            raise _SkippedError(reason)
        for group in groups:
            for scale in _SHARED:
                _check_equal(checkpoint, [f"{module}.{scale}" for module in group])
        return f"{len(groups)} groups of fused modules share their scales"

    def _compare_unquantized(self, checkpoint: Checkpoint) -> str:
        if self.original is None:
            reason = "there is no reference to compare with"
            raise _SkippedError(reason)
        original = _Original.of(checkpoint, self.original)
        same = [
            name
            for name in checkpoint.tensors
            if name in self.original.tensors and f"{name}_scale" not in checkpoint.tensors
        ]
        for position, name in enumerate(same, start=1):
            self.observer(Progress(position, len(same), "tensors", f"comparing {name}"))
            _check_unchanged(checkpoint, original, name, self.chunk_bytes)
        found = f"{len(same)} tensors that are not quantized equal their originals"
        if smoothed := len(original.smoothed.keys() & set(same)):
            found += f", {smoothed} of them times powers of two that smooth inputs"
        shorter = [name for name in same if checkpoint.tensors[name].size < self.original.tensors[name].size]
        if not shorter:
            return found
        types = f"{self.original.tensors[shorter[0]].dtype} to {checkpoint.tensors[shorter[0]].dtype}"
        return f"{found}; {len(shorter)} of them rounded to a shorter type, such as {shorter[0]} from {types}"

    def _measure(self, checkpoint: Checkpoint) -> str:
        weights = _decodable(checkpoint, self._quantization)
        if self.original is None:
            reason = "there is no reference to compare with"
            raise _SkippedError(reason)
        original = _Original.of(checkpoint, self.original)
        for position, name in enumerate(weights, start=1):
            self.observer(Progress(position, len(weights), "layers", f"signal to noise of {name}"))
            scheme = _BY_ALGORITHM[str(self._quantization.algorithm_of(name.removesuffix(".weight")))]
            snr_db = _snr_db(checkpoint, original, name, scheme, self.chunk_bytes)
            self._layers.append(LayerQuality(name.removesuffix(".weight"), snr_db))
        return _judge(self._layers, self.min_snr_db)


def _require_no_other_weights(folder: Path) -> None:
    """Refuse weights beside the model's own, because runtimes read every safetensors file of a folder."""
    names = {path.name for path in folder.iterdir()}
    own = own_weights(names, lambda: read_json(folder / INDEX), str(folder))
    others = sorted(unrelated_files(names, own))
    if others:
        message = f"{folder}: found {', '.join(others)}, which no index names; runtimes read every safetensors file"
        raise CheckFailedError(message)


# --- configuration -------------------------------------------------------------------------------------------------


def _quantization(folder: Path, config: Mapping[str, Any]) -> _Quantization:
    """Read a checkpoint's quantization, and check that both files agree if both exist."""
    inline = config.get("quantization_config")
    path = folder / configs.QUANT_CONFIG
    if not path.is_file():
        return _without_quant_config(folder, inline)
    document = read_json(path)
    quantization = document.get("quantization")
    if not isinstance(quantization, dict) or "quant_algo" not in quantization:
        message = f"{path}: expected the object quantization with quant_algo"  # NVIDIA's own may lack the producer
        raise CheckFailedError(message)
    excluded = quantization.get("exclude_modules") or []
    if inline is not None:
        _compare(path, "quant_algo", quantization.get("quant_algo"), inline.get("quant_algo"))
        _compare(path, "exclude_modules", sorted(excluded), sorted(inline.get("ignore") or []))
        _compare(path, "group_size", quantization.get("group_size"), inline.get("group_size"), optional=True)
    algorithm = str(quantization.get("quant_algo"))
    layers = _layers(path, quantization) if algorithm == configs.MIXED else {}
    if inline is not None and layers:
        _compare(path, "quantized_layers", quantization["quantized_layers"], inline.get("quantized_layers"))
    return _Quantization(algorithm, algorithm.lower(), tuple(excluded), layers)


def _layers(path: Path, quantization: Mapping[str, Any]) -> dict[str, str]:
    listed = quantization.get("quantized_layers")
    if not isinstance(listed, dict) or not all(isinstance(entry, dict) for entry in listed.values()) or not listed:
        message = f"{path}: expected the object quantized_layers, because quant_algo is {configs.MIXED}"
        raise CheckFailedError(message)
    return {module: str(entry.get("quant_algo")) for module, entry in listed.items()}


def _without_quant_config(folder: Path, inline: object) -> _Quantization:
    if inline is None:
        return _Quantization(None, UNQUANTIZED)
    method = str(inline.get("quant_method")) if isinstance(inline, dict) else "unknown"
    if method.startswith("modelopt"):
        message = f"{folder}: {configs.QUANT_CONFIG} is missing, which TensorRT-LLM reads for a ModelOpt checkpoint"
        raise CheckFailedError(message)
    return _Quantization(None, method.lower())


def _compare(path: Path, key: str, found: object, inline: object, *, optional: bool = False) -> None:
    if found != inline and not (optional and inline is None):
        message = f"{path}: found {key} {found!r}, but config.json has {inline!r}; expected the same"
        raise CheckFailedError(message)


# --- structure -----------------------------------------------------------------------------------------------------


def _unquantized(checkpoint: Checkpoint) -> Iterator[TensorSpec]:
    """Yield a checkpoint's tensors as they were before quantization. Scales follow from weights."""
    for name, tensor in checkpoint.tensors.items():
        module, _, leaf = name.rpartition(".")
        if leaf in _SCALES and f"{module}.weight" in checkpoint.tensors:
            continue
        packed = leaf == "weight" and tensor.dtype == "U8"
        shape = (*tensor.shape[:-1], 2 * tensor.shape[-1]) if packed else tensor.shape
        yield replace(tensor, shape=shape)


def _expected(
    config: Mapping[str, Any], source: Sequence[TensorSpec], quantization: _Quantization
) -> dict[str, TensorSpec]:
    """Return the tensors that a quantized model must have, by name."""
    known = quantization.name == UNQUANTIZED or quantization.algorithms <= set(layout.ALGORITHMS)
    if not known:
        reason = f"the tensors that {quantization.name} leaves are not known here"
        raise _SkippedError(reason)
    if layout.gathered_experts(source) and quantization.name != UNQUANTIZED:
        reason = "the reference has all experts of a layer in one tensor, which is not compared here"
        raise _SkippedError(reason)
    model = structure.read(config, source)
    source = [spec for spec in source if not model.is_redundant(spec.name)]
    if quantization.algorithm is None and quantization.name == UNQUANTIZED:
        return {spec.name: spec for spec in source}
    chosen = {f"{module}.weight": quantization.algorithm_of(module) for module in layout.linears(model, source)}
    return {
        spec.name: spec
        for tensor in source
        for algorithm in [chosen.get(tensor.name)]
        for spec in (layout.quantized_specs(tensor, algorithm) if algorithm else [tensor])
    }


# --- numbers -------------------------------------------------------------------------------------------------------


def _check_tensor_numbers(checkpoint: Checkpoint, tensor: StoredTensor, chunk_bytes: int) -> int:
    """Check that a tensor is finite, and positive if it is a scale; return how many tensors were checked."""
    is_scale = tensor.name.endswith(_SCALES)
    if tensor.dtype not in _FLOATS and not is_scale:
        return 0
    for first, rows in checkpoint.rows(tensor.name, chunk_bytes):
        if tensor.dtype == "U8":  # E8M0: powers of two, never zero
            bad = rows == _E8M0_NAN
        else:
            numbers = rows.astype(np.float32)
            bad = ~np.isfinite(numbers)
            if is_scale:
                bad |= numbers <= 0
        if bad.any():
            place = np.unravel_index(int(bad.argmax()), bad.shape)
            where = [int(place[0]) + first, *(int(number) for number in place[1:])] if tensor.shape else []
            expected = "a finite scale above zero" if is_scale else "a finite number"
            message = f"{tensor.file.name}: {tensor.name}{where}: found {rows[place]}, expected {expected}"
            raise CheckFailedError(message)
    return 1


def _check_equal(checkpoint: Checkpoint, names: Iterable[str]) -> None:
    values = {name: checkpoint.read(name) for name in names if name in checkpoint.tensors}
    first = next(iter(values), None)
    for name, value in values.items():
        if first is not None and not np.array_equal(value, values[first]):
            message = f"found {name} {value} and {first} {values[first]}; engines fuse these and expect one value"
            raise CheckFailedError(message)


def _check_unchanged(checkpoint: Checkpoint, original: _Original, name: str, chunk_bytes: int) -> None:
    """Check that a tensor equals the original's, smoothed, and rounded if its type is shorter."""
    for first, rows in original.rows(name, chunk_bytes):
        found = checkpoint.read(name, first, first + len(rows))
        expected = rows.reshape(found.shape).astype(found.dtype, copy=False)
        if found.tobytes() != expected.tobytes():
            message = f"{name}: found other numbers than the original has, from row {first} on"
            raise CheckFailedError(message)


# --- signal to noise -----------------------------------------------------------------------------------------------


def _decodable(checkpoint: Checkpoint, quantization: _Quantization) -> list[str]:
    """Return the quantized weights in supported formats."""
    if not quantization.algorithms <= _BY_ALGORITHM.keys():
        reason = (
            "nothing is quantized" if quantization.name == UNQUANTIZED else f"{quantization.name} is not decoded here"
        )
        raise _SkippedError(reason)
    return [name for name in checkpoint.tensors if f"{name}_scale" in checkpoint.tensors]


def _snr_db(checkpoint: Checkpoint, original: _Original, name: str, scheme: Scheme, chunk_bytes: int) -> float | None:
    """Return the signal-to-noise ratio of one weight in decibels: 10 log10 of sum(w^2) / sum((w - decoded)^2)."""
    scalar = next(iter(scheme.scalars(np.float32(1))))
    scale = np.float32(checkpoint.read(f"{name}{scalar}"))
    rowwise = ["", *(suffix for suffix in ("_scale",) if suffix != scalar)]
    signal = noise = 0.0
    for first, rows in original.rows(name, chunk_bytes):
        last = first + len(rows)
        encoded = {suffix: checkpoint.read(f"{name}{suffix}", first, last) for suffix in rowwise}
        exact = rows.astype(np.float64)
        signal += float(np.square(exact).sum())
        noise += float(np.square(exact - scheme.decode(encoded, scale)).sum())
    if noise == 0:
        return None
    if signal == 0:
        message = f"{name}: found numbers other than zero, but the original has only zeros"
        raise CheckFailedError(message)
    return round(10 * math.log10(signal / noise), 3)


def _judge(layers: Sequence[LayerQuality], required: float | None) -> str:
    measured = [(layer.snr_db, layer.name) for layer in layers if layer.snr_db is not None]
    if not measured:
        return f"{len(layers)} modules equal their originals"
    worst, name = min(measured)
    if required is not None and worst < required:
        message = f"{name}: found a signal-to-noise ratio of {worst} dB, expected at least {required} dB"
        raise CheckFailedError(message)
    demand = "" if required is None else f", required {required} dB"
    return f"{len(layers)} modules, the worst is {name} with {worst} dB{demand}"
