"""A small engine of TensorRT Edge-LLM beside a model, and a bundle's server with it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.bundle.gateway.documents import Limits, Profile, Serve
from tests.support.edge_packages import server_of_the_stand_in
from tests.support.gateway import Deployment, example_serve, serve_options

TABLE = "tensorrt-edgellm-serve-0.11.0"
SIZES = {"max_input_len": 2048, "max_kv_cache_capacity": 4096, "max_batch_size": 8}


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
