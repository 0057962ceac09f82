"""Describe a run: sections, their YAML, what can be wrong with them, and the schema.

A description does nothing; `run` does what it says.
"""
