"""A build that has ended, for the tests of its page."""

from __future__ import annotations

from orchestrator.pages.build_page import BuildStory, StepStory
from orchestrator.store.cost import MemoryCurve

GB = 10**9
DIGEST = "3f" * 32
CURVE = MemoryCurve(2.0, 9 * GB, tuple((9 + min(4 * point, 41) + point % 5) * GB for point in range(88)), 122 * GB)
DONE = StepStory(
    "quantize",
    "done",
    175.2,
    "2026-11-28T01:00:00",
    175.2,
    5_700_000_000,
    5_600_000_000,
    DIGEST,
    memory=CURVE,
    predicted_memory=44e9,
)
PREDICTED = {"low": 4.2, "expected": 4.8, "high": 5.1}
BUILD = BuildStory(
    recipe="a-recipe",
    description="What it is.",
    started="2026-11-28 00:57",
    is_running=False,
    is_finished=True,
    steps=(StepStory("download", "reused", 2.0), DONE),
    memory=128e9,
    verdict="fits",
    quality={
        "passed": True,
        "checks": [
            {"name": "tensors", "passed": True, "warning": False, "detail": "all of them"},
            {"name": "divergence", "passed": True, "warning": True, "detail": "0.31 nats"},
        ],
        "divergence": {"meaning": "More than is normal."},
    },
    levels=[
        {
            "concurrency": 1,
            "measured": 4.71,
            "predicted": PREDICTED,
            "first_token": 812.0,
        },
        {"concurrency": 4, "measured": None, "predicted": None, "first_token": None},
    ],
    bundle="/dist/a-recipe",
)
