"""Describes a target machine: memory, bandwidth, SM, architecture. Each constant has its source."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Architecture = Literal["amd64", "arm64"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, allow_inf_nan=False)


class Gpu(_Part):
    """The accelerator of one node."""

    name: str
    sm: int = Field(ge=50, le=199)
    """Compute capability without the point: 121 for GB10."""
    count: int = Field(default=1, ge=0, le=16)
    """GPUs that a step requests; 0 on a rehearsal machine without any."""
    memory_bandwidth: float = Field(gt=0)
    """Bytes per second of one GPU."""
    watts: float | None = Field(default=None, gt=0)
    """Most power of one GPU as its vendor states it; of GB10, with its processor."""


class Target(_Part):
    """One machine, or several that serve together."""

    description: str
    architecture: Architecture
    gpu: Gpu | None = None
    """None: the processor does the work."""
    nodes: int = Field(default=1, ge=1, le=64)
    memory: int = Field(gt=0)
    """Bytes of one node for models (unified, or of all its GPUs)."""
    reserve: int = Field(default=0, ge=0)
    """Bytes of one node for the system and the CUDA context."""
    cuda_free: int | None = Field(default=None, gt=0)
    """Most bytes that CUDA sees free after a start, on unified memory. Servers size their cache by it."""
    unified_memory: bool = False
    """CPU and GPU share the memory: the page cache counts as used."""
    sources: dict[str, str] = {}
    """The source of each constant."""

    @model_validator(mode="after")
    def _check_memory(self) -> Self:
        if self.reserve >= self.memory:
            message = f"reserve {self.reserve} leaves nothing of memory {self.memory}"
            raise ValueError(message)
        if self.cuda_free is not None and self.cuda_free > self.memory:
            message = f"cuda_free {self.cuda_free} is more than memory {self.memory}"
            raise ValueError(message)
        return self

    @property
    def usable_memory(self) -> int:
        """Bytes over all nodes for weights, caches and activations."""
        return (self.memory - self.reserve) * self.nodes
