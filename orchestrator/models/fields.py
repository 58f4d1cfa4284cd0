"""Reads a config.json field by field, and reports missing or impossible fields."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import NoReturn

from orchestrator.errors import ConfigInvalidError
from orchestrator.values import frozen

TEXT_PARTS = ("text_config", "llm_config", "language_config")
"""Fields that hold the configuration of the language model, if it is a part of another model."""
OWN_CONFIG = "take the config.json that belongs to the model's weights"
"""What helps if a field contradicts the weights."""
_LIMITS: Mapping[str, int] = {
    "num_hidden_layers": 2048,
    "num_experts": 2**14,
    "num_local_experts": 2**14,
    "n_routed_experts": 2**14,
    "max_position_embeddings": 2**31,
    "vocab_size": 2**24,
}
_LIMIT = 2**22
"""More than ten times the largest dimension of any published model. A larger number is an error."""

_CHANGES_SIZES = re.compile(
    r"size|_dims?(_|$)|rank$|heads|layer|expert|width|bias$|^moe_|^mamba|^linear_|^conv_|^n_|num_|_types?$|pattern"
    r"|_freq$|_interval$|_period$|_config$|^use_.*norm|qk_norm|_blocks?$|_ratio$|^share_|_mlp$|channels"
)
"""Names of fields that may decide how many weights or how large a cache there is."""
_CHANGES_NOTHING = re.compile(
    r"token_id|token_index|dropout|^rope|rotary|^num_beam|^num_return|^no_repeat|^encoder_no|^num_logits|^n_group$"
    r"|^time_step|chunk_size|^initializer|^model_type$|^torch_dtype$|^max_window_layers$|^position_embedding_type$"
    r"|^topk_|^ep_size$|_act$|^mamba_ssm_|^mamba_hidden_act|^use_.*kernels|_loss|aux_|^moe_jitter|^moe_router_topk_scaling"
    r"|^moe_layer_start|^linear_scaling|^quantization_config$|_token_type$|_cache_|^norm_topk|^router_"
    r"|^moe_shared_expert_overlap|^original_max|^scale_|^attn_type_list$|^hidden_act|^qk_norm_type$|^expand$"
    r"|_temperature_|^use_bfloat16$|^moe_router_|^moe_routed_scaling|^seq_aux|^vocab_size_per_layer_input$|^mtp_|^num_mtp"
    r"|^type_vocab|^problem_type$|^tokenizer|^is_|^num_labels|^pad_vocab|^finetuning|^base_model_tp_plan|^scoring_func$"
)
"""Of these, the ones that change no size of what is served for text."""


class NotDescribedError(ConfigInvalidError):
    """The fields do not say a size: one is missing, or may change sizes and is not understood."""

    missing: tuple[str, ...] = ()
    """The names of the field that is missing."""


@frozen
class Fields:
    """The fields of one config.json, or of a part of it."""

    data: Mapping[str, object]
    where: str = "config.json"
    """For messages: the file and the path of this part."""
    _asked: set[str] = field(default_factory=set, init=False, repr=False, compare=False)
    """Names of all fields that were read."""

    def has(self, name: str) -> bool:
        """Tell whether a field is there and not null."""
        self._asked.add(name)
        return self.data.get(name) is not None

    def named(self, *names: str) -> str | None:
        """Return the first name that is there with a value that is not zero, false or empty."""
        return next((name for name in names if self.has(name) and self.data[name]), None)

    def ignore(self, *names: str) -> None:
        """Mark fields that change nothing for this model."""
        self._asked.update(names)

    def unread(self) -> Iterator[str]:
        """Name the fields that may change sizes, have a value, and were not read."""
        for name, value in self.data.items():
            counts = bool(value) and not isinstance(value, float | str)
            if counts and name not in self._asked and _CHANGES_SIZES.search(name) and not _CHANGES_NOTHING.search(name):
                yield name

    def size(self, *names: str) -> int:
        """Read a whole number from 1, under the first of its names that is present.

        Raises:
            ConfigInvalidError: None is present, or the number is invalid.
        """
        found = next((name for name in names if self.has(name)), None)
        if found is None:
            self.missing(*names)
        return self._number(found, 1)

    def size_or(self, name: str, default: int) -> int:
        """Read a whole number from 1, or the default of the architecture's own code."""
        return self._number(name, 1) if self.has(name) else default

    def count(self, name: str, default: int | None = None) -> int:
        """Read a whole number from 0, or take the default."""
        if not self.has(name):
            return self.missing(name) if default is None else default
        return self._number(name, 0)

    def flag(self, name: str, *, default: bool) -> bool:
        """Read true or false, or take the default."""
        if not self.has(name):
            return default
        value = self.data[name]
        if not isinstance(value, bool):
            self.wrong(name, "true or false")
        return value

    def text(self, name: str) -> str:
        """Read a string."""
        if not self.has(name):
            self.missing(name)
        value = self.data[name]
        if not isinstance(value, str):
            self.wrong(name, "a string")
        return value

    def part(self, name: str) -> Fields:
        """Read a nested object."""
        if not self.has(name):
            self.missing(name)
        value = self.data[name]
        if not isinstance(value, Mapping):
            self.wrong(name, "an object")
        return Fields(value, f"{self.where}: {name}")

    def items(self, name: str, length: int | None = None) -> list[object]:
        """Read a list, with a given length if another field determines it."""
        if not self.has(name):
            self.missing(name)
        value = self.data[name]
        if not isinstance(value, list | tuple):
            self.wrong(name, "a list")
        if length is not None and len(value) != length:
            message = f"{self.where}: {name} has {len(value)} entries, expected {length} as num_hidden_layers says"
            raise ConfigInvalidError(message)
        return list(value)

    def missing(self, *names: str) -> NoReturn:
        """Raise for a missing field.

        Raises:
            NotDescribedError: Always.
        """
        message = f"{self.where}: {' or '.join(names)} is missing, and no size follows without it"
        error = NotDescribedError(message, hint="take the config.json of the model itself, complete")
        error.missing = names
        raise error

    def wrong(self, name: str, expected: str) -> NoReturn:
        """Raise for a field with an impossible value."""
        message = f"{self.where}: {name}: found {self.data.get(name)!r:.80}, expected {expected}"
        raise ConfigInvalidError(message)

    def _number(self, name: str, least: int) -> int:
        value = self.data[name]
        most = _LIMITS.get(name, _LIMIT)
        if type(value) is not int or not least <= value <= most:
            self.wrong(name, f"a whole number from {least} to {most}")
        return value
