"""Reads how a model is built from its `config.json` and the names and shapes of its tensors.

No architecture is listed here. A model is a stack of layers between an embedding and a head, whatever their names are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.errors import CheckpointError, ModelUnsupportedError
from orchestrator.quantization.tensors import TensorSpec
from orchestrator.values import frozen

Config = Mapping[str, Any]
"""A `config.json`."""

HEAD = "lm_head"

_TEXT = ("text_config", "llm_config", "language_config")
"""Where a multimodal model's `config.json` describes its language model."""
_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_KINDS_OF_LAYERS = ("layers_block_type", "hybrid_override_pattern")
"""Lists with an entry for each layer, in configurations without a number of layers."""
_TOWER = re.compile(r"vision|visual|audio|image|speech|multi_modal_projector|(^|\.)mtp(\.|$)")
"""Parts of a model beside its language model: towers, and layers that predict further tokens."""
_NUMBERED = re.compile(r"(.+?)\.(\d+)\.")
_EMBEDDING = re.compile(r"(emb[a-z_]*|wte)\.weight$")
_MATRIX = 2


@frozen
class Structure:
    """The parts of one model."""

    stack: str
    """The prefix of a layer's number, such as `model.layers`."""
    depth: int
    """How many layers the language model has. Later ones predict further tokens."""
    embedding: str
    """The module that turns tokens into hidden states."""
    hidden: int
    """The size of hidden states."""
    tied: bool
    """The head is tied to the embedding."""
    scaled_embedding: bool
    """The embedding is a class of its own, which ModelOpt does not list among what is not quantized."""

    def layer_of(self, name: str) -> int | None:
        """Return the number of the layer that a tensor or module belongs to."""
        found = re.match(rf"{re.escape(self.stack)}\.(\d+)\.", name)
        number = int(found.group(1)) if found else None
        return None if number is None or number >= self.depth else number

    def is_further(self, name: str) -> bool:
        """Tell whether a tensor belongs to a layer that predicts further tokens.

        transformers does not load these layers and ModelOpt does not quantize them, but runtimes draft with them.
        """
        return name.startswith(("mtp.", f"{self.stack}.")) and self.layer_of(name) is None

    def is_redundant(self, name: str) -> bool:
        """Tell whether a tensor only repeats another tensor or the configuration.

        Some checkpoints store the head although it is tied to the embedding, old ones also the rotation frequencies.
        Runtimes ignore both, and ModelOpt does not export them. `tied` and `frequencies` compare them.
        """
        return (self.tied and is_head(name)) or name.endswith(".rotary_emb.inv_freq")

    def is_tower(self, name: str) -> bool:
        """Tell whether a tensor belongs to a part beside the language model."""
        return self.layer_of(name) is None and in_tower(name)


def in_tower(name: str) -> bool:
    """Tell whether a name is of a tower, or of layers that predict further tokens."""
    return bool(_TOWER.search(name))


def is_head(tensor: str) -> bool:
    """Tell whether a tensor is the weight of the head."""
    return tensor == f"{HEAD}.weight" or tensor.endswith(f".{HEAD}.weight")


def architecture_of(config: Config) -> str:
    """Return the architecture of a `config.json`.

    Raises:
        CheckpointError: It does not declare exactly one.
    """
    declared = config.get("architectures")
    if not isinstance(declared, list) or len(declared) != 1 or not isinstance(declared[0], str):
        message = f"config.json: architectures: found {declared!r}, expected a list with one name"
        raise CheckpointError(message)
    return declared[0]


def text_config(config: Config) -> Config:
    """Return the part of a configuration that describes the language model."""
    parts = [config[key] for key in _TEXT if isinstance(config.get(key), dict)]
    return parts[0] if parts else config


def lists_layers(config: Config) -> bool:
    """Tell whether a configuration has an entry for each layer, in place of their number."""
    return any(text_config(config).get(key) for key in _KINDS_OF_LAYERS)


def untied(config: Config) -> dict[str, Any]:
    """Return a configuration that does not tie the head to the embedding."""
    parts = {key: {**config[key], "tie_word_embeddings": False} for key in _TEXT if isinstance(config.get(key), dict)}
    return {**config, **parts, "tie_word_embeddings": False}


def read(config: Config, tensors: Iterable[TensorSpec]) -> Structure:
    """Find the parts of a model.

    Raises:
        ModelUnsupportedError: It is not a stack of layers with an embedding.
        CheckpointError: The checkpoint lacks layers, or its embedding contradicts `config.json`.
    """
    architecture, text, specs = architecture_of(config), text_config(config), list(tensors)
    stack = _stack(architecture, text, specs)
    table = _embedding(architecture, text, specs, stack)
    depth = _depth(text, specs, stack)
    kind = str(text.get("model_type") or architecture).lower()
    gemma = kind.startswith("gemma")  # ties by default, and scales its embedding (`Gemma3TextScaledWordEmbedding`)
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", gemma))  # the whole model has the head
    embedding, hidden = table.name.removesuffix(".weight"), table.shape[1]
    return Structure(stack, depth, embedding, hidden, bool(tied), gemma)


def _stack(architecture: str, text: Config, specs: Iterable[TensorSpec]) -> str:
    """Return the prefix of the layers: the numbered modules with most bytes that are no tower.

    Other modules are numbered, too, such as those of a projector. The layers are as many as `config.json` declares.
    A tower may have more bytes, whatever it is called, but the table of tokens lies beside the layers if beside any.
    """
    sizes: Counter[str] = Counter()
    tables = [spec.name.rpartition(".")[0].rpartition(".")[0] for spec in specs if _is_table(spec, text)]
    numbers: dict[str, set[str]] = {}
    for spec in specs:
        found = _NUMBERED.match(spec.name)
        if found and not _TOWER.search(found.group(1)):
            sizes[found.group(1)] += spec.size
            numbers.setdefault(found.group(1), set()).add(found.group(2))
    if not sizes:
        message = f"{architecture}: no tensor is in a numbered layer, such as model.layers.0; found no stack of layers"
        raise ModelUnsupportedError(message, hint="Method onepass quantizes models whose decoder is a stack of layers.")
    declared = _declared_depth(text) or 0

    def likely(prefix: str) -> tuple[bool, bool, int]:
        return len(numbers[prefix]) >= declared, prefix.rpartition(".")[0] in tables, sizes[prefix]

    return max(sizes, key=likely)


def _is_table(spec: TensorSpec, text: Config) -> bool:
    """Tell whether a tensor is called an embedding, and has a row for each token."""
    return bool(_EMBEDDING.search(spec.name)) and len(spec.shape) == _MATRIX and spec.shape[0] == text.get("vocab_size")


def _embedding(architecture: str, text: Config, specs: Iterable[TensorSpec], stack: str) -> TensorSpec:
    """Return the weight of the token embedding: a table outside of the layers with a row for each token."""
    outside = [
        spec
        for spec in specs
        if spec.name.endswith(".weight")
        and len(spec.shape) == _MATRIX
        and not spec.name.startswith(f"{stack}.")
        and not _TOWER.search(spec.name)
    ]
    tables = [spec for spec in outside if _EMBEDDING.search(spec.name)]
    if not tables:  # some have a name of their own, such as transformer.w
        rows = text.get("vocab_size")
        tables = [spec for spec in outside if spec.shape[0] == rows and not is_head(spec.name)]
    if not tables:
        message = f"{architecture}: found no embedding, such as model.embed_tokens.weight, beside {stack}"
        raise ModelUnsupportedError(message, hint="Download the checkpoint again if its files are incomplete.")
    base = f"{stack.rpartition('.')[0]}."  # a head may be called embed_out; it lies beside the base model

    def unlikely(spec: TensorSpec) -> tuple[bool, bool, int, str]:
        return spec.shape[0] != text.get("vocab_size"), not spec.name.startswith(base), len(spec.name), spec.name

    found = min(tables, key=unlikely)
    for key, size in zip(("vocab_size", "hidden_size"), found.shape, strict=True):
        declared = size if text.get(key) is None else dimension(text, key)
        # Some tables have rows for tokens beyond the vocabulary: of images, or padding.
        if size < declared or (size > declared and key == "hidden_size"):
            message = f"{found.name}: found shape {list(found.shape)}, expected {text[key]} for {key} of config.json"
            raise CheckpointError(message)
    return found


def _depth(text: Config, specs: Iterable[TensorSpec], stack: str) -> int:
    """Return the number of layers that `config.json` declares; without one, the number of stored layers."""
    prefix = re.compile(rf"{re.escape(stack)}\.(\d+)\.")
    stored = {int(found.group(1)) for spec in specs if (found := prefix.match(spec.name))}
    depth = _declared_depth(text) or len(stored)
    missing = set(range(min(depth, len(stored) + 1))) - stored
    if missing:
        message = f"{stack}.{min(missing)} is missing; config.json asks for {depth} layers"
        raise CheckpointError(message, hint="Download the checkpoint again.")
    return depth


def _declared_depth(text: Config) -> int | None:
    kinds = next((_length(text, key) for key in _KINDS_OF_LAYERS if text.get(key)), None)
    return kinds or next((dimension(text, key) for key in _DEPTHS if text.get(key) is not None), None)


def _length(config: Config, key: str) -> int:
    """Return the number of layers from a list, or text, with an entry for each of them."""
    value = config[key]
    if not isinstance(value, (list, str)):
        message = f"config.json: {key}: found {value!r}, expected an entry for each layer"
        raise CheckpointError(message)
    return len(value)


def dimension(config: Config, key: str) -> int:
    """Return a size.

    Raises:
        CheckpointError: It is no whole number from 1.
    """
    value = config.get(key)
    if type(value) is not int or value < 1:
        message = f"config.json: {key}: found {value!r}, expected a whole number from 1"
        raise CheckpointError(message)
    return value
