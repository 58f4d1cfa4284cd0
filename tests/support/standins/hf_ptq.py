#!/usr/bin/env python3
"""Stand-in: see standin_hf_ptq."""

from standin_hf_ptq import start

start()
