"""Declares the calibration text: its download, and its conversion to the common form of all quantizers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from orchestrator.catalog.load import Catalog
from orchestrator.errors import RecipeInvalidError
from orchestrator.executors.job import Argument, Inside
from orchestrator.quantization.format_names import MEASURED
from orchestrator.recipe.model import Recipe
from orchestrator.steps.download import TOKEN
from orchestrator.steps.shape import OUT, SOURCE, Shape, payload
from orchestrator.steps.step import Folder, Input, Output, Step
from orchestrator.values import frozen

TEXT = "train.jsonl"
"""hf_ptq.py reads a JSON Lines file of `text`; quantize.py reads a folder whose file is named after the split."""

RANDOM = "random"
"""Instead of a data set: tokens from a seed, for models without a language."""

_FILE_ENDINGS = (".jsonl", ".txt")


@frozen
class Dataset:
    """A data set on the Hub by its ModelOpt name."""

    repo: str
    file: str
    """The first file of its training split, which has more samples than calibration needs."""
    column: str
    """The column of the text."""


DATASETS: Mapping[str, Dataset] = {
    "cnn_dailymail": Dataset("abisee/cnn_dailymail", "3.0.0/train-00000-of-00003.parquet", "article"),
    "wikitext": Dataset("Salesforce/wikitext", "wikitext-103-v1/train-00000-of-00002.parquet", "text"),
}


def build_download(recipe: Recipe, _catalog: Catalog) -> Step | None:
    """Declare the download of a known data set."""
    dataset = calibration_dataset(recipe)
    return download_step("download-calibration", dataset, recipe.quantization.calibration.revision) if dataset else None


def download_step(name: str, dataset: Dataset, revision: str) -> Step:
    """Declare the download of a data set's text."""
    return Step(
        name=name,
        argv=payload(
            "download",
            {
                "repo": dataset.repo,
                "revision": revision,
                "repo-type": "dataset",
                "include": dataset.file,
                "output": OUT,
            },
        ),
        outputs=(Output(dataset.file),),
        needs_code=True,
        secrets=(TOKEN,),
        network=True,
    )


def build(recipe: Recipe, catalog: Catalog) -> Step | None:
    """Declare the conversion of the text."""
    if not needs_text(recipe):
        return None
    calibration = recipe.quantization.calibration
    text = SourceText(calibration.dataset, calibration_dataset(recipe), "download-calibration", calibration.samples)
    image = Shape(recipe, catalog).quantizer_image  # it has a Parquet reader, which this machine's Python may lack
    return conversion_step("calibration", text, image, conversations=calibration.chat_template)


@frozen
class SourceText:
    """A text to convert to JSON Lines."""

    name: str
    """The local file, or the data set's name."""
    dataset: Dataset | None
    """None for a local file."""
    download: str
    """The step that downloads the data set."""
    samples: int


def conversion_step(
    name: str, text: SourceText, image: str | None, without: Input | None = None, *, conversations: bool = False
) -> Step:
    """Declare the conversion of a text.

    Args:
        name: The step's.
        text: The text.
        image: The image that can read it in any form.
        without: The output of an earlier step, whose samples are left out.
        conversations: Write conversations for the model's chat template, not text.
    """
    dataset = text.dataset
    file = dataset.file if dataset else PurePosixPath(text.name).name
    options: dict[str, Argument] = {
        "source": Inside(SOURCE, file) if dataset else Inside(f"{SOURCE}/{file}"),
        "column": dataset.column if dataset else "text",
        "samples": str(text.samples),
        "output": Inside(OUT.target, TEXT),
    }
    if without is not None:
        options["without"] = Inside(without.target, TEXT)
    read = (Input(text.download, SOURCE),) if dataset else ()
    return Step(
        name=name,
        argv=payload("calibration", options, *(["--conversations"] if conversations else [])),
        outputs=(Output(TEXT),),
        image=image,
        portable=dataset is None,
        inputs=(*read, *((without,) if without else ())),
        folders=() if dataset else (Folder(text.name, f"{SOURCE}/{file}"),),
        needs_code=True,
    )


def needs_text(recipe: Recipe) -> bool:
    """Tell whether the quantizer needs text. Both of NVIDIA's do, for every format."""
    if recipe.quantization.method == "onepass":
        return runs_the_model(recipe) and recipe.quantization.calibration.dataset != RANDOM
    return recipe.quantization.method in ("modelopt", "trtllm")


def runs_the_model(recipe: Recipe) -> bool:
    """Tell whether our own quantizer must run the model. Scales of weights alone follow from the weights."""
    quantization = recipe.quantization
    if quantization.format != "w4a16_nvfp4" or quantization.kv_cache != "none":
        return True
    return any(one in MEASURED for one in quantization.choices)


def calibration_dataset(recipe: Recipe) -> Dataset | None:
    """Return the data set on the Hub whose text a recipe needs, if any."""
    if not needs_text(recipe) or is_local(recipe.quantization.calibration.dataset):
        return None
    return dataset_named(recipe, recipe.quantization.calibration.dataset, "quantization.calibration")


def is_local(dataset: str) -> bool:
    """Tell a file from a name."""
    return dataset.endswith(_FILE_ENDINGS)


def dataset_named(recipe: Recipe, name: str, where: str) -> Dataset:
    """Find a data set on the Hub.

    Raises:
        RecipeInvalidError: It is not known.
    """
    if name not in DATASETS:
        message = f"{recipe.name}: {where}.dataset: unknown data set `{name}`"
        known = ", ".join(sorted(DATASETS))
        raise RecipeInvalidError(message, hint=f"use one of {known}, or a local file that ends in .jsonl or .txt")
    return DATASETS[name]
