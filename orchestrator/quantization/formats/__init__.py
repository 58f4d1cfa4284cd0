"""The arithmetic of each number format, one module per format, each the only definition of its format."""
