"""Quantizes weights: exact formats, the reader and writer of checkpoints, and the one-pass quantizer.

This package runs on the host and, mounted read-only, inside containers where nothing can be installed.
It imports only the standard library, NumPy, ml_dtypes and the two lowest modules of the whole code.
"""
