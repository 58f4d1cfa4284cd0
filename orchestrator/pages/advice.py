"""Recommends when to use which format."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from orchestrator.planner.comparison import Comparison, Row, Terms
from orchestrator.planner.kernels import GPT_OSS, has_four_bits
from orchestrator.units import in_bytes


def advice(comparison: Comparison, row: Row) -> str:
    """Recommend a format's use in one sentence."""
    shape, terms, name, found = comparison.subject.shape, comparison.terms, row.format, row.figures
    if not row.usable:
        return f"Not here: {row.refused}." if found.fits else _does_not_fit(row, terms)
    if shape.architecture == GPT_OSS:
        return _for_gpt_oss(name)
    if _lacks_four_bits(terms) and name in ("nvfp4", "mxfp4"):
        return "Only for its size: this GPU has no four-bit products, so an engine unpacks it, if it runs it at all."
    if _lacks_four_bits(terms) and name == "fp8":
        return "The usual choice on this GPU, which has eight-bit products and no four-bit ones: nearly no loss."
    return _FOR[name](terms)


def _does_not_fit(row: Row, terms: Terms) -> str:
    found = row.figures
    lacking = max(found.peak_memory_bytes[phase] for phase in ("load", "serve")) - found.available_bytes
    if lacking > 0:
        return f"Does not fit: {in_bytes(lacking)} more than {terms.target_name} has for it."
    return "Does not fit as asked: the context is longer than what the model was made for."


def _lacks_four_bits(terms: Terms) -> bool:
    return terms.target.gpu is not None and not has_four_bits(terms.target.gpu)


def _for_gpt_oss(name: str) -> str:
    if name in ("mxfp4", "gguf_mxfp4"):
        return "What it is published in: serve it as it is."
    if name in ("bf16", "f16"):
        return "Only to train it further: its experts were published in MXFP4, so this holds nothing more."
    return "Not worth making: it is published in MXFP4, and quantizing it again only loses precision."


_FOR: Mapping[str, Callable[[Terms], str]] = {
    "bf16": lambda _: (
        "The reference that the others are checked against, and the slowest: where speed does not matter."
    ),
    "fp8": lambda _: (
        "The first step down: half the bytes at nearly no loss, and what remains where NVFP4 fails a check."
    ),
    "nvfp4": lambda _: (
        "The usual choice on Blackwell: four bits for weights and activations, so prompts are read fastest, too; "
        "take a published checkpoint or calibrate one, and check its quality."
    ),
    "w4a16_nvfp4": lambda _: (
        "The bytes of NVFP4 with activations left in 16 bits: made from the BF16 weights in one pass without "
        "calibration, decodes as fast, reads prompts slower."
    ),
    "mxfp4": lambda _: (
        "For models published in it; others lose more than in NVFP4, whose scales are finer and closer together."
    ),
    "f16": lambda _: "The reference, and the slowest.",
    "q8_0": lambda _: "Nearly no loss at half the bytes of F16.",
    "q4_k_m": lambda _: "The usual choice of llama.cpp: mixed four and six bits, with more loss than Q8_0.",
    "q4_0": lambda _: "Smaller and plainer than Q4_K_M, with more loss.",
}
