"""The program as a library: plan, resolve and build recipes, and look at what builds left."""
