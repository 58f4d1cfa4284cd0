"""What checks find of models that nobody quantized: numbers as real ones have them, drawn from a seed."""

from __future__ import annotations

import random
from typing import Any

DENSE: tuple[str, ...] = (
    *(f"self_attn.{leaf}_proj" for leaf in "qkvo"),
    *(f"mlp.{leaf}_proj" for leaf in ("gate", "up", "down")),
)
MIXED: tuple[str, ...] = (
    *DENSE[:4],
    *(f"mlp.experts.{number}.{leaf}_proj" for number in range(4) for leaf in ("gate", "up", "down")),
)


def quality(layers: int, modules: tuple[str, ...] = DENSE, *, compared: bool = True) -> dict[str, Any]:
    """A quality.json."""
    drawn = random.Random(layers)  # noqa: S311 - numbers to draw
    names = [f"model.layers.{layer}.{module}" for layer in range(layers) for module in modules]
    found = [{"name": name, "snr_db": round(20.3 - 6 * drawn.random() ** 4, 3)} for name in names]
    return {
        "format": "nvfp4",
        "passed": True,
        "checks": [
            {"name": "configuration", "passed": True, "detail": "LlamaForCausalLM, nvfp4", "warning": False},
            {
                "name": "kl_divergence",
                "passed": True,
                "detail": "0.021 nats a token over 32704 tokens",
                "warning": False,
            },
        ],
        "advice": "",
        "skipped": [{"name": "chat_template", "reason": "the recipe asks for none"}],
        "layers": [*found, {"name": "model.layers.0.spared", "snr_db": None}],
        "snr_db": {"min": 14.0, "mean": 19.5},
        "divergence": divergence(layers, modules, drawn) if compared else None,
        "min_snr_db": 14.0,
        "served": None,
    }


def warned(layers: int) -> dict[str, Any]:
    """A quality.json of a model that lost more than is normal for its format."""
    found = quality(layers)
    found["checks"][1]["warning"] = True
    return {**found, "advice": "set scale_search: weighted"}


def divergence(layers: int, modules: tuple[str, ...], drawn: random.Random) -> dict[str, Any]:
    """What comparing with the original found."""
    groups = [list(modules[:3]), [modules[3]]]
    groups += [list(modules[4:])] if ".experts." in modules[4] else [list(modules[4:6]), [modules[6]]]
    return {
        "kl_divergence": {"mean": 0.021, "p99": 0.4},
        "meaning": "This model's divergence is 0.17 times what is normal for NVFP4.",
        "layers": [
            {
                "layer": layer,
                "error": 0.01,
                "groups": [
                    {"modules": [f"model.layers.{layer}.{name}" for name in group], "error": 10 ** -drawn.uniform(2, 4)}
                    for group in groups
                ],
            }
            for layer in range(layers)
        ],
    }


def quantization() -> dict[str, Any]:
    """A quantization.json of formats within a budget, with experts that nothing reached."""
    curve = [{"bits_per_weight": 4.5 + step / 2, "error": 2.0 ** -(step / 3) - 2.0**-8} for step in range(24)]
    return {
        "experts": {"unreached": 2, "tokens": {"model.layers.0": {f"mlp.experts.{n}": n // 2 for n in range(4)}}},
        "choice": {
            "bits_per_weight": 6.0,
            "error": curve[3]["error"],
            "curve": curve,
            "groups": [{"format": "nvfp4"}, {"format": "fp8"}, {"format": "nvfp4"}, {"format": "bf16"}],
        },
    }


def compared() -> dict[str, Any]:
    """Return two ways of which the own is better, as `verify` reports them."""
    rows = [
        {
            "name": name,
            "divergence": {"mean": mean, "low": mean - 0.02, "high": mean + 0.02},
            "behind": {"mean": behind, "low": behind, "high": behind},
            "perplexity": 10.5,
            "agreement": {"mean": 0.75, "low": 0.7, "high": 0.8},
        }
        for name, mean, behind in (("weighted+gptq", 0.252, 0.0), ("max", 0.467, 0.215))
    ]
    layers = [{"layer": number, "errors": {"weighted+gptq": 0.01, "max": 0.1 + number}} for number in range(3)]
    return {"own": "weighted+gptq", "tokens": 1020, "sequences": 4, "candidates": rows, "layers": layers}
