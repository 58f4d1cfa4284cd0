"""The page of a build's checks."""

from __future__ import annotations

import re

import pytest

from orchestrator.pages.quality_page import costliest, quality_page
from tests.support.checked import MIXED, compared, quality, quantization


def test_the_weakest_modules_are_listed_from_the_worst_on() -> None:
    found = quality(12)
    page = quality_page("a-recipe", "What it is.", found)
    ranked = sorted((layer["snr_db"], layer["name"]) for layer in found["layers"] if layer["snr_db"] is not None)
    listed = re.findall(r"<code>(model\.layers\.[^<]+)</code>", page)
    assert listed == [name for _, name in ranked[:10]]


def test_a_picture_says_in_words_where_it_is_worst() -> None:
    found = quality(3, compared=False)
    found["layers"] = [
        {"name": "model.layers.0.mlp.up_proj", "snr_db": 20.0},
        {"name": "model.layers.2.mlp.up_proj", "snr_db": 13.0},
        {"name": "model.layers.2.mlp.experts.7.up_proj", "snr_db": 15.0},
        {"name": "model.layers.2.mlp.experts.8.up_proj", "snr_db": 16.0},
    ]
    page = quality_page("a-recipe", "What it is.", found)
    assert "2 kinds of modules in 3 layers, from 13.0 to 20.0 dB." in page
    assert "The lowest is up_proj in layer 2 with 13.0 dB." in page
    assert "experts.up_proj" in page


def test_a_failed_check_is_seen_at_once() -> None:
    found = {**quality(2), "passed": False}
    found["checks"] = [{"name": "kl_divergence", "passed": False, "detail": "found 0.5 <nats>", "warning": False}]
    page = quality_page("a-recipe", "What it is.", found)
    assert "Checks failed" in page
    assert "found 0.5 &lt;nats&gt;" in page


def test_what_quantizing_told_is_shown_too() -> None:
    page = quality_page("a-recipe", "What it is.", quality(4, MIXED), quantization())
    assert "Calibration reached 2 of 4 experts" in page
    assert "chosen: 6.00 bits" in page
    assert "2 in NVFP4, 1 in FP8, 1 in BF16" in page


def test_a_model_that_is_not_quantized_has_a_page_without_pictures() -> None:
    found = {**quality(1, compared=False), "layers": []}
    page = quality_page("a-recipe", "What it is.", found)
    assert "<svg" not in page
    assert "://" not in page  # nothing is fetched


def test_ways_are_compared_in_a_table_and_by_layer() -> None:
    page = quality_page("a-recipe", "What it is.", {**quality(4), "compared": compared()})
    assert "weighted+gptq, this model" in page
    assert "0.467 (0.447 to 0.487)" in page
    assert "0.215 (0.215 to 0.215)" in page
    assert "75.0 % (70.0 to 80.0)" in page
    assert "The lowest is max in layer 2 with -3.2 dB." in page
    assert "Compared with other ways" not in quality_page("a-recipe", "What it is.", quality(4))


def test_the_divergence_is_shared_out_to_layers() -> None:
    layers = [
        {"layer": 0, "groups": [{"modules": ["q_proj"], "error": 0.1}, {"modules": ["o_proj"], "error": 0.2}]},
        {"layer": 1, "groups": [{"modules": ["q_proj"], "error": 0.7}]},
    ]
    found = costliest({"kl_divergence": {"mean": 2.0}, "layers": layers})
    assert [number for number, _ in found] == [1, 0]
    assert [nats for _, nats in found] == pytest.approx([1.4, 0.6])
    assert costliest(None) == []
    assert costliest({"kl_divergence": {"mean": 0.0}, "layers": [{"layer": 0, "groups": []}]}) == []
    assert "What layers cost" in quality_page("a-recipe", "What it is.", quality(4))
