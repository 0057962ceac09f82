"""Open tables that have types, in memory, in files or in databases, and yield their columns in blocks.

Start at `typed_source` (the interface) and `open_table` (the door). Text with delimiters is of `text`.
"""
