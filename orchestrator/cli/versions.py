"""Lists the versions that a bug report needs."""

from __future__ import annotations

import platform

from orchestrator import __version__
from orchestrator.libraries import installed

_LIBRARIES = ("click", "docker", "huggingface_hub", "jinja2", "ml_dtypes", "numpy", "pydantic", "tokenizers")


def version_text() -> str:
    """List the versions, ours first."""
    libraries = ", ".join(f"{name} {installed(name)}" for name in _LIBRARIES)
    machine = f"{platform.system()} {platform.release()}, {platform.machine()}"  # platform.platform() starts a process
    return f"orchestrator {__version__}\nPython {platform.python_version()} on {machine}\n{libraries}"
