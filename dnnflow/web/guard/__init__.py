"""Decide who gets in: host, origin, rate, login, size of a body."""
