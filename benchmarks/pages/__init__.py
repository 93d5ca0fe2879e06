"""The pages and tables that are written from benchmarks/results."""
