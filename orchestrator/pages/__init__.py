"""Pages to look at: what the planner reckoned, as tables, and as one HTML file with its pictures inside."""
