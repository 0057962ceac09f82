"""Say what a column is, what is measured of it, and how it becomes network input.

Start at `recipe` and `preprocess`. Plain values and numpy: no file is opened here.
"""
