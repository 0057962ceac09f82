"""Train any design on TensorFlow with the arithmetic of Keras, one at a time; build Keras models."""
