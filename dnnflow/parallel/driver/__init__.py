"""Drive a training: place servers and replicas, watch them, validate, write checkpoints.

Start at `training`. It tells events and returns numbers; it draws nothing.
"""
