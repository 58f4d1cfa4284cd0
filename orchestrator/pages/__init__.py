"""Renders the planner's results as tables, and as one HTML file with its charts."""
