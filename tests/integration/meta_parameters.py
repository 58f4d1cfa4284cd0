"""Counts the values of models as transformers builds them, without memory. Runs in the environment of the oracle.

Reads a JSON list of [name, config] from a file, and prints an object of counts; null if transformers has no class or
cannot build it.
"""

# mypy: disable-error-code="import-not-found,no-any-return"
# torch and transformers are not in the environment of the tests.

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

_MAPPINGS = (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING)


def count(config: dict[str, Any]) -> int | None:
    """Build a model on the meta device, and count what its checkpoint holds."""
    if config["model_type"] not in CONFIG_MAPPING:
        return None
    settings = CONFIG_MAPPING[config["model_type"]].from_dict({**config, "quantization_config": None})
    made = next((mapping[type(settings)] for mapping in _MAPPINGS if type(settings) in mapping), None)
    if made is None:
        return None
    with torch.device("meta"):
        model = made(settings)
    model.tie_weights()
    return sum(tensor.numel() for tensor in {id(value): value for value in _values(model)}.values())


def _values(model: Any) -> list[torch.Tensor]:  # noqa: ANN401 - a module of transformers
    saved = model.state_dict()
    tied = getattr(model, "all_tied_weights_keys", {})
    return [value for name, value in saved.items() if name not in tied]


def main() -> None:
    """Count every model of the file."""
    logging.disable()
    found: dict[str, object] = {}
    for name, config in json.loads(Path(sys.argv[1]).read_bytes()):
        try:
            found[name] = count(config)
        except Exception as error:  # noqa: BLE001 - whatever transformers raises
            found[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(found))  # noqa: T201 - the answer to the test


if __name__ == "__main__":
    main()
