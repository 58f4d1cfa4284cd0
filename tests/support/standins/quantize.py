#!/usr/bin/env python3
"""Stand-in: see standin_checkpoint."""

from standin_checkpoint import start_quantize

start_quantize()
