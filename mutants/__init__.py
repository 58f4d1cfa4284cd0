"""Mutation testing: changes the code in small ways, and counts how many changes the tests notice."""
