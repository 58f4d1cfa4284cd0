from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from orchestrator.errors import MemoryBudgetError
from orchestrator.quantization import resources
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.plan import Plan, scheme_named
from orchestrator.quantization.residence import BUFFER, BUFFERS
from orchestrator.quantization.resources import LAYERS, Needs, Way, choose
from orchestrator.quantization.samples import random_batches
from orchestrator.quantization.tensors import TensorSpec
from orchestrator.quantization.torch_types import Torch

Save = Callable[..., Path]

_NEEDS = Needs(libraries=100, layer=1000, gathered=0, batch=50, between=5000)


@pytest.mark.parametrize(
    ("budget", "way"),
    [
        (7150, Way(layers=2, spill=False)),
        (7149, Way(layers=1, spill=False)),
        (6150, Way(layers=1, spill=False)),
        (6149, Way(layers=2, spill=True)),
        (2150, Way(layers=2, spill=True)),
        (2149, Way(layers=1, spill=True)),
        (1150, Way(layers=1, spill=True)),
    ],
)
def test_the_fastest_way_that_fits_is_taken(budget: int, way: Way) -> None:
    assert choose(_NEEDS, budget) == way


def test_what_flows_between_layers_goes_to_a_file_where_that_is_asked_for() -> None:
    assert choose(_NEEDS, 100_000, spill=True) == Way(layers=2, spill=True)


def test_too_little_is_an_error_that_says_what_is_needed() -> None:
    needs = Needs(700_000_000, 1_711_000_000, 0, 50_000_000, 4_300_000_000)
    with pytest.raises(MemoryBudgetError) as caught:
        choose(needs, 2_000_000_000)
    assert str(caught.value).startswith(
        "quantization.resources.memory: calibration needs 2.47 GB of memory at least, found 2.00 GB; it takes"
        " libraries 0.70 GB, one layer 1.72 GB, one batch 0.05 GB, hidden states 4.30 GB"
    )
    assert "batch_size" in caught.value.hint


def test_needs_follow_from_shapes(tiny: Path) -> None:
    plan = Plan.make(tiny, scheme_named("fp8"))
    few, many = (resources.needs(plan, random_batches(261, count, 8), "cpu") for count in (2, 4))
    hidden = plan.checkpoint.tensors[plan.embedding].shape[1]
    assert many.between == 2 * few.between == 4 * 8 * hidden * 2
    assert many.layer == few.layer == sum(plan.spec(name).size for unit in plan.layers[0] for name in unit)
    assert many.batch == few.batch > 0


def test_a_quantized_layer_that_runs_needs_its_codes_and_what_is_multiplied(tiny: Path) -> None:
    plan = Plan.make(tiny, scheme_named("fp8"))
    once, again = (resources.needs(plan, random_batches(261, 2, 8), "cpu", quantized=both) for both in (False, True))
    weights = [plan.spec(unit[0]) for unit in plan.layers[0] if plan.quantizes(unit[0])]
    before = sum(spec.size for spec in weights)
    assert again.quantized > before * 1.5 + 5 * max(spec.size for spec in weights)
    assert again.total(layers=1, spill=False) == once.total(layers=1, spill=False) + again.quantized
    assert "the quantized layer" in f"{again}"
    assert "the quantized layer" not in f"{once}"


def test_what_the_model_computes_with_in_another_type_is_there_twice(tiny: Path, save: Save) -> None:
    source = Checkpoint.open(tiny)
    stored = {name: source.read(name) for name in source.tensors}
    norm = "model.layers.1.input_layernorm.weight"
    folder = save({**stored, norm: stored[norm].astype(np.float32)})
    shutil.copy(tiny / "config.json", folder)
    plain, longer = (Plan.make(place, scheme_named("fp8")) for place in (tiny, folder))
    plain_needs, needs = (resources.needs(plan, random_batches(261, 2, 8), "cpu") for plan in (plain, longer))
    assert needs.layer - plain_needs.layer == source.tensors[norm].size * 2
    assert needs.between == plain_needs.between


def test_what_the_machine_has_counts_the_page_cache_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "meminfo"
    file.write_text("MemTotal:  100 kB\nMemFree:  7 kB\nMemAvailable:      42 kB\n")
    monkeypatch.setattr(resources, "_MEMORY_FILE", file)
    assert resources.available() == 42 * 1024
    file.write_text("MemTotal: 100 kB\n")
    with pytest.raises(MemoryBudgetError, match="found no MemAvailable"):
        resources.available()


class Gpu:
    """What torch tells of a GPU."""

    def __init__(self, free: int, *, integrated: bool) -> None:
        self.cuda = self
        self.is_integrated = integrated
        self.free = free

    def get_device_properties(self, _: str) -> Gpu:
        return self

    def mem_get_info(self, _: str) -> tuple[int, int]:
        return self.free, 10 * self.free


def torch_on(gpu: Gpu) -> Torch:
    """Return a torch that knows only this GPU."""
    return cast("Torch", gpu)


def test_a_processor_and_a_gpu_on_its_memory_share_it() -> None:
    assert resources.is_shared(torch_on(Gpu(0, integrated=False)), "cpu")
    assert resources.is_shared(torch_on(Gpu(0, integrated=True)), "cuda:0")
    assert not resources.is_shared(torch_on(Gpu(0, integrated=False)), "cuda:0")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_budget_is_for_the_memory_that_is_shared(tiny: Path, device: str) -> None:
    plan, batches = Plan.make(tiny, scheme_named("fp8")), random_batches(261, 2, 8)
    needed = resources.needs(plan, batches, device)
    whole, gpu = needed.total(layers=2, spill=False), Gpu(0, integrated=True)

    def decide(memory: int) -> Way:
        return resources.decide(plan, batches, device=device, memory=memory, spill=False, torch=torch_on(gpu))

    assert decide(whole) == Way(layers=2, spill=False)
    assert decide(whole - 1) == Way(layers=1, spill=False)


def test_a_gpu_with_memory_of_its_own_must_hold_the_layers_and_the_host_the_buffers(tiny: Path) -> None:
    plan, batches = Plan.make(tiny, scheme_named("fp8")), random_batches(261, 2, 8)
    needed = resources.needs(plan, batches, "cuda")
    own = resources.LIBRARIES_OF_GPU + needed.layer + needed.batch
    host = needed.libraries + 2 * BUFFERS * BUFFER

    def decide(memory: int, free: int) -> Way:
        gpu = Gpu(free, integrated=False)
        return resources.decide(plan, batches, device="cuda", memory=memory, spill=False, torch=torch_on(gpu))

    assert decide(host, own + needed.layer + needed.between) == Way(layers=2, spill=False)
    assert decide(host, own + needed.between) == Way(layers=1, spill=False)
    assert decide(host, own) == Way(layers=1, spill=True)
    with pytest.raises(MemoryBudgetError, match="of the GPU's memory at least"):
        decide(host, own - 1)
    with pytest.raises(MemoryBudgetError, match="of memory at least"):
        decide(host - 1, own)


def test_the_libraries_of_a_gpu_and_its_copies_are_counted(tiny: Path) -> None:
    plan, batches = Plan.make(tiny, scheme_named("fp8")), random_batches(261, 2, 8)
    cpu, gpu = (resources.needs(plan, batches, device) for device in ("cpu", "cuda"))
    assert gpu.libraries - cpu.libraries == resources.LIBRARIES_OF_GPU
    assert (gpu.layer, gpu.batch, gpu.between) == (cpu.layer, cpu.batch, cpu.between)


def test_scores_of_attention_grow_with_the_square_of_a_sequence(tiny: Path) -> None:
    plan = Plan.make(tiny, scheme_named("fp8"))
    short, long = (resources.needs(plan, random_batches(261, 1, length), "cpu").batch for length in (8, 16))
    assert long - 2 * short == 2 * (16 * 16 - 2 * 8 * 8)


def test_the_rows_of_the_embedding_that_the_tokens_use_are_counted_and_no_row_twice(tiny: Path) -> None:
    plan = Plan.make(tiny, scheme_named("fp8"))
    vocabulary, hidden = plan.checkpoint.tensors[plan.embedding].shape
    one, some, all_rows, more = (
        resources.needs(plan, random_batches(vocabulary, count, 1), "cpu").libraries
        for count in (1, 100, vocabulary, 2 * vocabulary)
    )
    assert some - one == 99 * hidden * 2
    assert all_rows - one == (vocabulary - 1) * hidden * 2
    assert more == all_rows


@pytest.mark.parametrize(("shape", "width"), [((300, 10), 300), ((20, 400), 20)])
def test_activations_are_as_wide_as_the_widest_output_of_a_layer(shape: tuple[int, int], width: int) -> None:
    specs = {"w": TensorSpec("w", "BF16", shape), "norm": TensorSpec("norm", "BF16", (900,))}
    plan = SimpleNamespace(
        layers={0: [("w",), ("norm",)]},
        spec=specs.__getitem__,
        checkpoint=SimpleNamespace(tensors={"embed": TensorSpec("embed", "BF16", (50, 10))}),
        embedding="embed",
        scheme=scheme_named("nvfp4"),
        computed="BF16",
    )
    tokens, hidden, scores = 2 * 8, 10, 2 * 8 * 8 * 2
    per_number = 2 + 4  # itself in BF16, and once more in FP32
    found = resources.needs(cast("Plan", plan), random_batches(50, 2, 8, batch_size=2), "cpu")
    assert found.batch == tokens * (3 * width + 4 * hidden) * per_number + scores
    assert found.layer == shape[0] * shape[1] * 2 + 900 * 2


def test_gptq_needs_the_products_of_inputs_and_room_for_what_it_rounded(tiny: Path) -> None:
    plain, rounding = (
        resources.needs(Plan.make(tiny, scheme_named("nvfp4", rounding=name)), random_batches(261, 1, 8), "cpu")
        for name in ("nearest", "gptq")
    )
    plan = Plan.make(tiny, scheme_named("nvfp4"))
    shapes = {
        name.rpartition(".layers.0.")[2]: spec.shape
        for name, spec in plan.checkpoint.tensors.items()
        if ".layers.0." in name and len(spec.shape) > 1
    }
    # q, k and v get one tensor, and gate and up another.
    distinct = ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")
    inputs = [shapes[f"{module}.weight"][1] for module in distinct]
    rounded = sum(rows * columns // 2 + rows * columns // 16 + 4 + 4 for rows, columns in shapes.values())
    assert plain.products == 0
    assert rounding.products == 4 * (sum(n**2 for n in inputs) + 3 * max(inputs) ** 2) + rounded
    assert rounding.total(layers=1, spill=True) - plain.total(layers=1, spill=True) == rounding.products
    assert "products of inputs" in str(rounding)
    by_pairs = Plan.make(tiny, scheme_named("nvfp4", scale_search="local_hessian"))
    assert resources.needs(by_pairs, random_batches(261, 1, 8), "cpu").products == 98 * sum(inputs)


def test_with_memory_for_all_its_layers_one_is_encoded_while_the_next_runs() -> None:
    assert Way(layers=LAYERS, spill=False).encodes_beside
    assert not any(Way(layers=layers, spill=False).encodes_beside for layers in range(1, LAYERS))
