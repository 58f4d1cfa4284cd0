"""Sizes that are calculated from config.json equal what transformers builds on the meta device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import ConfigInvalidError
from orchestrator.models import ModelShape, shape_of
from tests.support.environments import ROOT
from tests.support.oracle import find_environment

FOLDER = ROOT.parent / "shared" / "data" / "model_configs"
CONFIGS = sorted(path.name for path in FOLDER.glob("*_config.json") if not path.name.endswith("_hf_quant_config.json"))
COUNT = Path(__file__).with_name("meta_parameters.py")


def built(configs: dict[str, dict[str, Any]], file: Path) -> dict[str, object]:
    """Count models as transformers builds them."""
    file.write_text(json.dumps(list(configs.items())))
    found: dict[str, object] = json.loads(find_environment().run(COUNT, file).splitlines()[-1])
    return found


def counted(config: dict[str, Any], name: str) -> ModelShape | None:
    try:
        return shape_of(config, name)
    except ConfigInvalidError:
        return None


@pytest.mark.skipif(not CONFIGS, reason=f"the real configurations are not at {FOLDER}")
def test_real_configurations_are_counted_as_transformers_builds_them(tmp_path: Path) -> None:
    configs = {name: json.loads((FOLDER / name).read_bytes()) for name in CONFIGS}
    compared = 0
    for name, count in built(configs, tmp_path / "configs.json").items():
        shape = counted(configs[name], name)
        if not isinstance(count, int) or shape is None or any("is left out: its sizes" in note for note in shape.notes):
            continue
        compared += 1
        assert shape.parameters == count if shape.exact else shape.parameters >= count, name
    assert compared > len(CONFIGS) / 2
