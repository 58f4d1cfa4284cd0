"""Declares the steps, one module each: Recipe to Step, or None if the recipe does not need it."""
