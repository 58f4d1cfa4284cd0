"""From a recipe to a quantized, checked, measured TensorRT-LLM deployment."""

__version__ = "0.1.0"
