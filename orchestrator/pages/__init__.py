"""Pages to look at: what the planner calculated, as tables, and as one HTML file with its pictures inside."""
