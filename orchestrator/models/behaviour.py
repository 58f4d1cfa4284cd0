"""Checks fields of a config.json that decide how a model computes: no size depends on them, no tensor shows them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from orchestrator.errors import ConfigInvalidError
from orchestrator.models.fields import OWN_CONFIG, TEXT_PARTS

_ACTIVATIONS = frozenset(("hidden_act", "hidden_activation", "activation_function", "mlp_hidden_act"))
_ACTIVATION_NAMES = frozenset((
    "geglu", "gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh",
    "gelu_pytorch_tanh", "hardswish", "laplace", "leaky_relu", "linear", "mish", "prelu", "quick_gelu", "relu", "relu2",
    "relu6", "sigmoid", "silu", "sqrtsoftplus", "swiglu", "swigluoai", "swiglustep", "swish", "tanh", "xielu",
))  # fmt: skip
"""`ACT2FN` of transformers 5.24, and those of vLLM's own models."""
_EPSILONS = frozenset(("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps"))
_BASES = frozenset(("rope_theta", "rope_local_base_freq"))
_SHARES = frozenset(("partial_rotary_factor", "rotary_pct"))
_ROTATIONS = ("rope_scaling", "rope_parameters")
_ROTATION_TYPES = frozenset((
    "deepseek_llama_scaling", "deepseek_yarn", "default", "dynamic", "fope", "linear", "llama3", "longrope", "mllama4",
    "mrope", "ntk", "openpangu", "proportional", "su", "telechat3-yarn", "xdrope", "yarn",
))  # fmt: skip
"""`ROPE_INIT_FUNCTIONS` of transformers 5.24, `default`, names that it replaces, and those of vLLM's `get_rope`."""


def require_loadable(config: Mapping[str, object], where: str = "config.json", *, is_excerpt: bool = False) -> None:
    """Check that transformers can load a model from a configuration and compute with it.

    A model with a class of its own (`auto_map`) may give these fields other meanings.

    Args:
        config: The content of config.json.
        where: Its name in messages.
        is_excerpt: Nothing is loaded from it, and its sizes alone count: it may lack a model type.

    Raises:
        ConfigInvalidError: There is no model type, or a field is impossible.
    """
    own = config.get("auto_map")
    if isinstance(own, Mapping) and "AutoConfig" in own:
        return
    if not config.get("model_type") and not is_excerpt:
        message = f"{where}: model_type is missing, and transformers loads no model without it"
        raise ConfigInvalidError(message, hint=f"{OWN_CONFIG}, or add the type of its class")
    parts = {"": config} | {f"{name}: ": part for name in TEXT_PARTS if isinstance(part := config.get(name), Mapping)}
    for prefix, part in parts.items():
        for name, value, expected in _impossible(part):
            message = f"{where}: {prefix}{name}: found {value!r:.60}, expected {expected}"
            raise ConfigInvalidError(message, hint=OWN_CONFIG)


def _impossible(config: Mapping[str, object]) -> Iterator[tuple[str, object, str]]:
    """Yield the name and the value of each impossible field, and what was expected."""
    for name, value in config.items():
        if value is None:
            continue
        if name in _ACTIVATIONS and not (isinstance(value, str) and value in _ACTIVATION_NAMES):
            yield name, value, "an activation that transformers has, such as silu"
        elif name in _EPSILONS and not _is_within(value, 0, 1):
            yield name, value, "a number from 0 to 1"
        elif name == "tie_word_embeddings" and not isinstance(value, bool):
            yield name, value, "true or false"
        elif name in _ROTATIONS:
            yield from _impossible_rotations(name, value)
        else:
            yield from _impossible_angle(name, name, value)


def _impossible_rotations(name: str, value: object) -> Iterator[tuple[str, object, str]]:
    """Check the parameters of rotations: of all layers, or by the type of a layer."""
    if not isinstance(value, Mapping):
        yield name, value, "an object"
        return
    for key, inner in value.items():
        path = f"{name}.{key}"
        if isinstance(inner, Mapping):
            yield from _impossible_rotations(path, inner)
        elif key in ("rope_type", "type") and not (isinstance(inner, str) and inner in _ROTATION_TYPES):
            yield path, inner, f"one of {', '.join(sorted(_ROTATION_TYPES))}"
        elif key == "factor" and not _is_within(inner, 0, math.inf, open_ends=True):
            yield path, inner, "a number above 0"
        else:
            yield from _impossible_angle(path, key, inner)


def _impossible_angle(path: str, name: str, value: object) -> Iterator[tuple[str, object, str]]:
    if name in _BASES and not _is_within(value, 0, math.inf, open_ends=True):
        yield path, value, "a number above 0"
    elif name in _SHARES and not (value and _is_within(value, 0, 1)):
        yield path, value, "a number above 0, at most 1"


def _is_within(value: object, least: float, most: float, *, open_ends: bool = False) -> bool:
    """Tell whether a value is a number in a range; NaN is in none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return least < value < most if open_ends else least <= value <= most
