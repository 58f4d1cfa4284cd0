"""The reference of what recipes name: targets, images and their known faults."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import get_args

from packaging.version import Version

from docs.generate.markdown import code, codes, page, table
from docs.generate.recipes import SETTINGS
from orchestrator.catalog.image import Fault, Image
from orchestrator.catalog.target import Target
from orchestrator.recipe.model import Format
from orchestrator.serving.runtimes import RUNTIMES, runtime_of

_SPARK = "sm_121"
_ORDER = get_args(Format)

_INTRODUCTION = """\
`target` and `image` of a recipe are names of this catalogue: [`docker/images.yaml`](../../docker/images.yaml), and
[`targets.yaml`](../../orchestrator/catalog/targets.yaml) of the tool, under those [of a
project](../how-to/install.md#your-project-lies-over-the-tools-files)."""

_FORMATS = """\
The formats are those that the image has kernels for on GB10 (SM 121); the file has the other GPUs. Whether a model
runs is another question, which `orchestrator plan` answers for a whole recipe."""


def reference() -> str:
    """Write the page of the catalogue."""
    return page(
        "Targets and images",
        _INTRODUCTION,
        f"## Targets\n\n{_targets()}",
        f"## Images\n\n{_FORMATS}\n\n{_images()}",
        f"## Known faults\n\n{_faults()}",
    )


def faults() -> tuple[Fault, ...]:
    """List every fault of every image once."""
    return tuple(dict.fromkeys(fault for image in _all_images().values() for fault in image.faults))


def _all_images() -> Mapping[str, Image]:
    return SETTINGS.catalog.images


def _targets() -> str:
    rows = [(code(name), target.description, target.architecture, *_machine(target)) for name, target in _all_targets()]
    return table(("target", "what", "processor", "GPU", "memory", "kept for the system"), rows)


def _all_targets() -> list[tuple[str, Target]]:
    return sorted(SETTINGS.catalog.targets.items())


def _machine(target: Target) -> tuple[str, str, str]:
    gpu = f"{target.gpu.count} of {target.gpu.name}, SM {target.gpu.sm}" if target.gpu else "none"
    nodes = f" in each of {target.nodes}" if target.nodes > 1 else ""
    kind = ", unified" if target.unified_memory else ""
    if target.cuda_free:
        kind += f", of which CUDA sees at most {target.cuda_free / 1e9:.1f} GB free"
    return gpu, f"{target.memory / 1e9:.1f} GB{nodes}{kind}", f"{target.reserve / 1e9:.1f} GB"


def _images() -> str:
    rows = [
        (
            code(name),
            f"{runtime_of(image).LABEL} {image.version}",
            ", ".join(image.architectures),
            "yes" if image.builder else "no",
            codes(image.formats.get("sm_121", ())) or ("quantizes only" if image.tools else "a base only"),
            _linked(image.description),
        )
        for name, image in _all_images().items()
    ]
    return table(("image", "runtime", "processors", "builds TensorRT engines", "formats on GB10", "what"), rows)


def runtimes() -> str:
    """Write the table of what runs on the Spark's GPU: for each format a runtime's first version in the catalogue."""
    images = [image for image in _all_images().values() if image.formats.get(_SPARK)]
    formats = sorted({name for image in images for name in image.formats[_SPARK]} & set(_ORDER), key=_ORDER.index)
    rows = []
    for name, runtime in RUNTIMES.items():
        own = [image for image in images if image.runtime == name]
        untried = " (experimental, never run on a Spark)" if all(image.experimental for image in own) else ""
        rows.append((runtime.LABEL + untried, *(_first(own, each) for each in formats)))
    return table(("runtime", *map(code, formats)), rows)


def _first(images: Iterable[Image], name: str) -> str:
    """Find the first numbered version that runs a format, less those of which a fault refuses it for every model."""
    able = [image for image in images if name in image.formats[_SPARK] and not _refused(image, name)]
    numbered = [image for image in able if image.version[0].isdigit()]
    if not numbered:
        return "no"
    first = min(numbered, key=lambda image: Version(image.version))
    kernel = first.weight_only.get(_SPARK, {}).get(name)
    return f"{first.version}, by {kernel}" if kernel else first.version


def _refused(image: Image, name: str) -> bool:
    return any(fault.effect == "refuse" and name in fault.formats and not fault.architectures for fault in image.faults)


def _linked(text: str) -> str:
    """Say whose issue a number is: a forge would take it for one of ours."""
    return re.sub(r"(?<![\w/])#(\d+)", r"NVIDIA/TensorRT-LLM#\1", text)


def _faults() -> str:
    rows = [(code(fault.code), fault.effect, fault.message, fault.hint, fault.source) for fault in faults()]
    return table(("code", "effect", "what", "what to do", "source"), rows)
