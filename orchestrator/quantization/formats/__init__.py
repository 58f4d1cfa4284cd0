"""Defines the arithmetic of each number format, one module per format."""
