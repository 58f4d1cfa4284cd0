"""Weights become fewer bits: exact formats, the reader and writer of checkpoints, and the one-pass quantizer.

This room runs on the host and, mounted read-only, inside containers where nothing can be installed.
It imports the standard library, NumPy, ml_dtypes and the two lowest modules of this package, nothing else.
"""
