"""Which format, method and image `new` proposes."""

from __future__ import annotations

from orchestrator.catalog.load import Catalog
from orchestrator.planner.proposal import Candidate, NewRecipe, propose
from orchestrator.recipe.model import Recipe
from tests.unit.planner.conftest import Change


def test_a_model_without_known_sizes_gets_the_usual_format_and_no_figures(catalog: Catalog, changed: Change) -> None:
    def written(candidate: Candidate) -> Recipe:
        quantization = {"format": candidate.format, "method": candidate.method, "image": candidate.quantizer}
        return changed({"image": candidate.image or "tensorrt-llm-1.2.1", "quantization": quantization})

    new = NewRecipe(
        name="example/model",
        architecture="LlamaForCausalLM",
        shape=None,
        declared=None,
        target_name="dgx-spark",
        target=catalog.target("dgx-spark"),
        wanted=None,
        has_base=True,
    )
    proposal = propose(new, catalog, written)
    assert proposal.candidate == Candidate("nvfp4", "onepass", None)
    assert (proposal.row, proposal.passed_over) == (None, {})
