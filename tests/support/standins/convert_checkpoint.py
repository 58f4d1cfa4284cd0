#!/usr/bin/env python3
"""Start the stand-in; a link to this file works as well."""

import runpy
import sys
from pathlib import Path

folder = Path(__file__).resolve().parent
sys.path.insert(0, str(folder.parent))
runpy.run_module(f"{folder.name}.standin_convert", run_name="__main__")
