"""Stand-in for convert_checkpoint.py."""

from __future__ import annotations

from .standin_checkpoint import convert
from .standin_tool import main

if __name__ == "__main__":
    main("convert_checkpoint.py", convert)
