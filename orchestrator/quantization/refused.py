"""Lists the classes of models that our own quantizer refuses, each with its reason, so that a plan can say so.

`make families` writes the list: what ModelOpt exports and method `onepass` refuses in every format. A class that is not
listed is tried. What cannot be quantized is then refused by name before anything is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

FILE = Path(__file__).with_name("refused.json")
REASONS: Mapping[str, str] = json.loads(FILE.read_text(encoding="utf-8"))
"""By the name in `architectures` of a `config.json`."""
