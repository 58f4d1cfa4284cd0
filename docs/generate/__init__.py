"""The parts of the documentation that the code knows best, written from it: `python -m docs.generate`.

`--check` writes nothing and fails where a page does not say what the code says now.
"""
