"""What `designs_per_hour.py` measures: one module a system, and one a part of the benchmark."""
