"""Describe a Keras model as plain data, and compute its flat gradient. The only room that builds models."""
