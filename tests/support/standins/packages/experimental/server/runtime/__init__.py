"""As the package of TensorRT Edge-LLM has it."""
