"""A small engine of TensorRT Edge-LLM beside a model, and a bundle's server with it."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from orchestrator.bundle.gateway.documents import Limits, Profile, Serve
from tests.support.gateway import ROOT, Deployment, example_serve, serve_options

TABLE = "tensorrt-edgellm-serve-0.11.0"
SIZES = {"max_input_len": 2048, "max_kv_cache_capacity": 4096, "max_batch_size": 8}
PACKAGES = ROOT / "tests" / "support" / "standins" / "packages"


def example_edge_llm(**changes: Any) -> Serve:  # noqa: ANN401 - any field
    """Return the serving options of a small recipe with TensorRT Edge-LLM."""
    options = [word for name, size in SIZES.items() for word in (f"--{name.replace('_', '-')}", str(size))]
    serve = example_serve(
        backend="",
        runtime="edge_llm",
        version="0.11.0",
        command=("tensorrt-edgellm-serve",),
        engine=".edgellm",
        config="",
        arguments=(*options, "--enable-in-flight-batching"),
        options=serve_options(TABLE),
        limits=Limits(1, 1, SIZES["max_kv_cache_capacity"], SIZES["max_batch_size"]),
        profile=Profile("ef" * 32, "edge_llm-nvfp4-tp1-pp1", {"llm_engine": "edge_llm", "tp": "1"}),
    )
    return dataclasses.replace(serve, **changes)


def server_of_the_stand_in() -> ModuleType:
    """Load what stands in for the package in which the server looks up the places of engines."""
    file = PACKAGES / "experimental" / "server" / "runtime" / "engine_build.py"
    spec = importlib.util.spec_from_file_location("stand_in_engine_build", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def write_engine(model: Path, sizes: Mapping[str, int] = SIZES) -> Path:
    """Write an engine into the folder of its model, as the step leaves it, and give its place in a cache."""
    engine, server = model / ".edgellm", server_of_the_stand_in()
    engine.mkdir(exist_ok=True)
    path = Path(server.bundle_cache_path(str(model), "/cache", server.BuildOptions(**sizes))).relative_to("/cache")
    (engine / "llm.engine").write_bytes(b"ftrt")
    (engine / "config.json").write_text(json.dumps({"builder_config": dict(sizes), "checkpoint_identity": {}}))
    (engine / "cache_entry.json").write_text(json.dumps({"path": path.as_posix()}))
    return path


class EdgeDeployment(Deployment):
    """A bundle's server with the stand-in of tensorrt-edgellm-serve behind it."""

    def lay_out(self) -> None:
        """Write the files of the bundle; nobody may write into its engine."""
        super().lay_out()
        (self.folder / "model" / ".edgellm" / "rank0.engine").unlink()
        write_engine(self.folder / "model")
        (self.folder / "model" / ".edgellm").chmod(0o555)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that it is started with."""
        return {**super().environment, "NIM_CACHE_PATH": str(self.folder / "cache")} | dict(self.variables)
