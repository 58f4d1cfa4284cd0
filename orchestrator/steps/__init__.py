"""One module per step: Recipe to Step, or None where this recipe does not need it."""
