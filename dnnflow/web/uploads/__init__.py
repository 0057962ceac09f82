"""Receive tables, check and profile them as they arrive, keep them for a while."""
