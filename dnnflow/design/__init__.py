"""Describe networks as plain data: one design, the space of designs, and the weights they start from.

Start at `layers` and `space`. numpy only: no engine, no Keras.
"""
