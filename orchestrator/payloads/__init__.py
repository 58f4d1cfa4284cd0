"""Runs as steps: small programs with the standard library, NumPy and `orchestrator.quantization`.

Inside a container this package is mounted read-only; nothing is installed there.
"""
