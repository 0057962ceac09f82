"""Keep what each design of a study predicts for the rows that designs are compared on: design × row.

Start at `prediction_matrix`. Other measures and tests are computed from it, without training again.
"""
