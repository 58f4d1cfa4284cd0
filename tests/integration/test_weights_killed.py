"""Does a quantization of weights alone, killed while it writes, leave the same files when it runs again?"""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.payloads import generate
from tests.support.killed import KILLS, contents, kill_ten_times

pytestmark = pytest.mark.timeout(300)


def test_ten_random_kills_change_no_byte_of_weights(tmp_path: Path) -> None:
    sizes = ("--hidden-size", "128", "--intermediate-size", "512", "--layers", "8", "--vocab-size", "300")
    generate.main(["--output", str(tmp_path / "model"), *sizes])
    options = ["--checkpoint", str(tmp_path / "model"), "--format", "w4a16_nvfp4", "--shard-bytes", "200000"]
    found = kill_ten_times("quantize", tmp_path / "runs", options)
    assert len(found.done) == KILLS, found.asked
    assert any(found.done), found.asked  # some had written
    assert found.differing == [], found.asked
    shards = [name for name in contents(found.results[0]) if name.endswith(".safetensors")]
    assert len(shards) > 2
