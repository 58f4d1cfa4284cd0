"""Makes the page of a build's checks from `quality.json` and the quantizer's `quantization.json`."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from orchestrator.pages.charts import SHADES, Picture, curve, shades
from orchestrator.pages.page import Chart, Key, render
from orchestrator.values import frozen

_WEAKEST = 10
_IN_LAYER = re.compile(r"(?:.*?\.)?(\d+)\.(.+)")
_ORDER = (
    "q_proj",
    "k_proj",
    "v_proj",
    "q, k, v",
    "o_proj",
    "o",
    "gate_proj",
    "up_proj",
    "gate, up",
    "down_proj",
    "down",
)
"""As a layer computes them; others follow."""
_LEAST_SPREAD_DB = 0.5
"""Within which all cells have one shade."""

Cells = Mapping[tuple[str, int], float]
"""By the name of a row and the number of a layer."""


@frozen
class Making:
    """What each step's result cost when it was made, as a table of words."""

    heads: Sequence[str] = ()
    numbers: Collection[int] = ()
    """The columns whose cells are numbers."""
    rows: Sequence[Sequence[str]] = ()


def quality_page(
    name: str,
    description: str,
    quality: Mapping[str, Any],
    quantization: Mapping[str, Any] | None = None,
    making: Making | None = None,
) -> str:
    """Write the page.

    Args:
        name: The recipe.
        description: Of the recipe.
        quality: What the checks found.
        quantization: What our own quantizer found, where it quantized and calibrated.
        making: What the steps cost, as far as that is known.
    """
    measured = [layer for layer in quality["layers"] if layer["snr_db"] is not None]
    return render(
        "quality.html.j2",
        title=f"{name}: checks",
        description=description,
        passed=quality["passed"],
        checks=quality["checks"],
        warned=any(check["warning"] for check in quality["checks"]),
        advice=quality["advice"],
        meaning=(quality["divergence"] or {}).get("meaning"),
        skipped=quality["skipped"],
        compared=(compared := quality.get("compared")),
        costs=costliest(quality.get("divergence")),
        charts=[
            *_weights(measured),
            *_outputs(quality.get("divergence")),
            *_ways(compared),
            *_trade(quantization),
        ],
        worst=sorted(measured, key=lambda layer: float(layer["snr_db"]))[:_WEAKEST],
        notes=list(_notes(quantization)),
        making=making or Making(),
    )


def _weights(layers: Sequence[Mapping[str, Any]]) -> Iterator[Chart]:
    """Draw the signal-to-noise ratio of every quantized weight; of a layer's experts that of the worst."""
    cells: dict[tuple[str, int], float] = {}
    for layer in layers:
        found = _IN_LAYER.fullmatch(layer["name"])
        if found:
            kind = re.sub(r"experts\.\d+\.", "experts.", found.group(2))
            place = (kind.partition(".")[2] or kind, int(found.group(1)))
            cells[place] = min(cells.get(place, math.inf), layer["snr_db"])
    title = "Signal to noise of the weights"
    yield from _shaded("weights", title, cells, "Empty: not quantized. Of experts, the worst.")


def _outputs(divergence: Mapping[str, Any] | None) -> Iterator[Chart]:
    """Draw what each group of modules alone does to its layer's output."""
    layers = divergence["layers"] if divergence else []
    cells = {
        (_group_name(group["modules"]), layer["layer"]): -10 * math.log10(group["error"])
        for layer in layers
        for group in layer["groups"]
        if group["error"] > 0
    }
    note = "What quantizing these modules alone leaves of what their layer says, on held-out text."
    yield from _shaded("outputs", "Signal to noise of a layer's output", cells, note)


def _ways(compared: Mapping[str, Any] | None) -> Iterator[Chart]:
    """Draw the error of each layer's output, with all before it quantized, by way to quantize."""
    cells = {
        (name, layer["layer"]): -10 * math.log10(error)
        for layer in (compared["layers"] if compared else [])
        for name, error in layer["errors"].items()
        if error > 0
    }
    note = "What quantizing all layers so far leaves of what a layer says, on held-out text."
    yield from _shaded("ways", "Signal to noise by way to quantize", cells, note)


def costliest(divergence: Mapping[str, Any] | None) -> list[tuple[int, float]]:
    """Return the layers that cost most, with nats: shares of the divergence by what a layer's groups do alone."""
    layers = divergence["layers"] if divergence else []
    errors = {layer["layer"]: math.fsum(group["error"] for group in layer["groups"]) for layer in layers}
    total = math.fsum(errors.values())
    if divergence is None or not total:
        return []
    mean = float(divergence["kl_divergence"]["mean"])
    return sorted(((n, mean * error / total) for n, error in errors.items()), key=lambda one: -one[1])[:_WEAKEST]


def _group_name(modules: Sequence[str]) -> str:
    if ".experts." in modules[0]:
        return "experts"
    leaves = sorted((module.rpartition(".")[2].removesuffix("_proj") for module in modules), key="qkv".find)
    return ", ".join(leaves)


def _shaded(key: str, title: str, cells: Cells, note: str) -> Iterator[Chart]:
    if not cells:
        return
    rows = sorted({row for row, _ in cells}, key=lambda row: (_ORDER.index(row) if row in _ORDER else len(_ORDER), row))
    least, most = min(cells.values()), max(cells.values())
    count = len(SHADES) if most - least > _LEAST_SPREAD_DB else 1
    width = (most - least) / count or 1.0
    levels = {
        (rows.index(row), layer): min(int((value - least) / width), count - 1) for (row, layer), value in cells.items()
    }
    (worst, where), value = min(cells.items(), key=lambda cell: cell[1])
    columns = 1 + max(layer for _, layer in cells)
    said = f"{len(rows)} kinds of modules in {columns} layers, from {least:.1f} to {most:.1f} dB"
    picture = Picture(key, title, f"{said}. The lowest is {worst} in layer {where} with {value:.1f} dB.")
    keys = tuple(
        Key(f"{least + level * width:.1f} to {least + (level + 1) * width:.1f} dB", "series-0", f"shade-{level}")
        for level in range(count)
        if level in levels.values()
    )
    svg = shades(picture, rows, columns, levels, "layer")
    yield Chart(title, svg, keys, f"{note} The lowest: {worst} of layer {where}.")


def _trade(quantization: Mapping[str, Any] | None) -> Iterator[Chart]:
    """Draw what bits buy, where formats were chosen within a budget."""
    choice = quantization.get("choice") if quantization else None
    if not choice:
        return
    points = [(point["bits_per_weight"], point["error"]) for point in choice["curve"]]
    chosen = (choice["bits_per_weight"], choice["error"])
    title = "Error against bits per weight"
    first, last = points[0], points[-1]
    said = (
        f"The sum of all groups' errors falls from {first[1]:.3g} at {first[0]:.2f} bits to {last[1]:.3g} at"
        f" {last[0]:.2f}. Chosen: {chosen[0]:.2f} bits with {chosen[1]:.3g}."
    )
    formats = [group["format"] for group in choice["groups"]]
    counts = ", ".join(f"{formats.count(name)} in {name.upper()}" for name in dict.fromkeys(formats))
    keys = (Key("every step from NVFP4 to BF16", "series-0"), Key(f"chosen: {chosen[0]:.2f} bits", "limit", "dot"))
    svg = curve(Picture("trade", title, said), points, chosen, "bits per weight", "sum of errors")
    yield Chart(title, svg, keys, f"Groups of modules: {counts}.")


def _notes(quantization: Mapping[str, Any] | None) -> Iterator[str]:
    experts = quantization["experts"] if quantization else {"tokens": {}}
    if experts["tokens"]:
        total = sum(len(layer) for layer in experts["tokens"].values())
        yield (
            f"Calibration reached {total - experts['unreached']} of {total} experts;"
            " the others have the input scale of their layer's peers."
        )
