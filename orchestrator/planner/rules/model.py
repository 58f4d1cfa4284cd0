"""Rules about the model: what serves it, and how."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.catalog.image import Image
from orchestrator.catalog.runtimes import software_of, unserved
from orchestrator.errors import Refusal
from orchestrator.planner.figures import in_words
from orchestrator.planner.rule_input import RuleInput
from orchestrator.serving.runtimes import runtime_of

_ROUNDING = 0.05
"""Of a number of parameters: model cards round it, and count tied heads or towers or not."""


def builds_engines(given: RuleInput) -> Iterator[Refusal]:
    """The TensorRT engine path ended in July 2026. Newer images have no trtllm-build."""
    if not given.runtime.HAS_BACKENDS:
        return
    if given.recipe.backend == "tensorrt" and not given.image.has("trtllm-build"):
        message = (
            f"image {given.recipe.image} has no trtllm-build: TensorRT-LLM removed the engine backend after 1.3.0rc20"
        )
        able = given.images_where(lambda image: image.has("trtllm-build"))
        hint = f"use image {able[0]} or backend pytorch" if able else "use backend pytorch"
        yield Refusal("ENGINE_UNSUPPORTED", message, hint)


def knows_the_model(given: RuleInput) -> Iterator[Refusal]:
    """The image's backend supports the model's architecture."""
    architecture, image = given.recipe.model.architecture, given.recipe.image
    never = unserved(given.image.runtime).get(architecture)
    if given.recipe.backend == "pytorch" and never is not None:
        message = f"{given.runtime.LABEL} in image {image} does not serve {architecture}: {never.why}"
        yield Refusal("MODEL_UNSUPPORTED", message, never.instead)
    builds = given.recipe.backend == "tensorrt" and given.image.builder is not None
    if builds and architecture not in given.image.engine_families:
        known = ", ".join(given.image.engine_families)
        message = f"image {image} has no conversion of {architecture} to a TensorRT engine; it has: {known}"
        yield Refusal("MODEL_UNSUPPORTED", message, never.instead if never else _without_an_engine(given))


def experts_are_built(given: RuleInput) -> Iterator[Refusal]:
    """A builder of engines may have kernels of experts in fewer formats than of other weights."""
    able, wanted = given.image.expert_formats, given.quantization.format
    if able is None or wanted in able or not given.recipe.model.active_parameters:
        return
    message = f"image {given.recipe.image} builds engines with experts in {', '.join(able)} only, not in {wanted}"
    yield Refusal("FORMAT_UNSUPPORTED", message, f"use format {able[0]}, or {_without_an_engine(given)}")


def _without_an_engine(given: RuleInput) -> str:
    """Say what serves the model without an engine of this image."""
    if given.runtime.HAS_BACKENDS:
        return "use backend pytorch"
    architecture = given.recipe.model.architecture
    others = [
        name
        for name, image in given.images.items()
        if image.serves
        and image.runtime != given.image.runtime
        and given.target.architecture in image.architectures
        and has_listed(image, architecture, None)
    ]
    return f"use image {others[-1]}, which serves the checkpoint" if others else "use another model"


def size_is_validated(given: RuleInput) -> Iterator[Refusal]:
    """The maker of a runtime may support its engines of small models only."""
    limit, model = given.image.validated_parameters, given.recipe.model
    if limit is None or model.active_parameters or model.parameters < limit:
        return
    message = (
        f"the model has {in_words(model.parameters)} parameters, and the maker of {given.runtime.LABEL} supports dense"
        f" models below {in_words(limit)}; larger ones need a validation of their own"
    )
    yield Refusal("SIZE_UNVALIDATED", message, f"compare its answers first, or {_without_an_engine(given)}")


def class_is_listed(given: RuleInput) -> Iterator[Refusal]:
    """TensorRT-LLM may not have a model class that is not in the list of its version."""
    architecture, software = given.recipe.model.architecture, software_of(given.image)
    if given.recipe.backend != "pytorch" or architecture in unserved(given.image.runtime):
        return
    if software is None or architecture not in software.classes.served:
        message = _unlisted(given.image, given.recipe.image, architecture)
        hint = _listed_elsewhere(given) or "it may load all the same"
        yield Refusal("MODEL_UNLISTED", message, hint)


def type_is_read(given: RuleInput) -> Iterator[Refusal]:
    """The transformers of an image may not read a `model_type` that is newer."""
    model_type, software = _model_type(given), software_of(given.image)
    if given.recipe.backend != "pytorch" or model_type is None or software is None or software.model_types is None:
        return
    if model_type not in software.model_types.names:
        message = (
            f"model_type {model_type} is not in the list of transformers {software.model_types.version}, the nearest"
            f" known version of image {given.recipe.image} (read on {software.model_types.read})"
        )
        yield Refusal("MODEL_TYPE_UNLISTED", message, _listed_elsewhere(given) or "use a newer image")


def has_the_architecture(given: RuleInput) -> Iterator[Refusal]:
    """The recipe names the architecture that the model's files have."""
    known, named = given.model.known, given.recipe.model.architecture
    if known is not None and known.shape.architecture != named:
        message = f"model.architecture: found {named}, but the model is {known.shape.architecture} by {known.basis}"
        yield Refusal("ARCHITECTURE_DIFFERS", message, f"set model.architecture to {known.shape.architecture}")


def has_the_parameters(given: RuleInput) -> Iterator[Refusal]:
    """The recipe names other parameters than the model's files have, by more than 5 %."""
    known, named = given.model.known, given.recipe.model.parameters
    if known is None or not known.shape.exact:
        return
    counted = known.shape.parameters
    if not (1 - _ROUNDING) * counted <= named <= (1 + _ROUNDING) * counted:
        message = f"model.parameters: found {in_words(named)}, but there are {in_words(counted)} by {known.basis}"
        yield Refusal("PARAMETERS_DIFFER", message, f"set model.parameters to {counted:.4g}")


def has_listed(image: Image, architecture: str, model_type: str | None) -> bool:
    """Tell whether the lists of an image's TensorRT-LLM and transformers have a model's class and type."""
    software = software_of(image)
    if software is None or architecture not in software.classes.served:
        return False
    types = software.model_types
    return model_type is None or types is None or model_type in types.names


def _listed_elsewhere(given: RuleInput) -> str | None:
    architecture, model_type = given.recipe.model.architecture, _model_type(given)
    able = given.images_where(lambda image: has_listed(image, architecture, model_type))
    return f"use image {able[-1]}, whose list has it" if able else None


def _model_type(given: RuleInput) -> str | None:
    return given.model.known.shape.model_type if given.model.known else None


def _unlisted(image: Image, name: str, architecture: str) -> str:
    software = software_of(image)
    if software is None:
        return f"no list of model classes was read for {runtime_of(image).LABEL} {image.version} of image {name}"
    source = f"(read on {software.classes.read} from {software.classes.what})"
    if architecture in software.classes.autodeploy:
        return f"the list for image {name} {source} has {architecture} for AutoDeploy only, not for backend pytorch"
    return f"{architecture} is not in the list of model classes for image {name} {source}"


def speculates_as_the_model_can(given: RuleInput) -> Iterator[Refusal]:
    """Only the PyTorch backend supports drafts here, and two of the kinds need support by the model."""
    speculative = given.recipe.serve.speculative
    if speculative is None:
        return
    architecture, runtime = given.recipe.model.architecture, given.runtime
    if given.recipe.backend == "tensorrt":
        message = "serve.speculative is for checkpoints: no TensorRT engine is built for it here"
        yield Refusal("SPECULATIVE_UNSUPPORTED", message, _without_an_engine(given))
        return
    if speculative.type == "mtp" and architecture not in runtime.MTP:
        message = f"{architecture} has no layers that predict tokens (mtp)"
        yield Refusal("SPECULATIVE_UNSUPPORTED", message, "use draft_target with a small model of the same vocabulary")
    if speculative.type == "eagle3" and architecture not in runtime.EAGLE3:
        message = f"{runtime.LABEL} runs no EAGLE-3 head for {architecture}"
        yield Refusal(
            "SPECULATIVE_UNSUPPORTED", message, "use mtp" if architecture in runtime.MTP else "use draft_target"
        )
