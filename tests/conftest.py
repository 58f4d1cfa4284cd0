"""Starts the longest files first: their processes would otherwise be the last to end, while the others wait."""

from __future__ import annotations

import pytest

_LONGEST = (
    "test_calibrated_oracle",
    "test_chaos",
    "test_whole_recipe",
    "test_deploy",
    "test_installed",
    "test_image_transformers",
    "test_hub_faults",
    "test_candidates",
    "test_two_sparks",
    "test_bundle_files",
    "test_families",
    "test_evaluation_goes_on",
    "test_models_oracle",
    "test_payload_bytes",
)
"""More than 90 seconds each on two cores; see `pytest --durations`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))
