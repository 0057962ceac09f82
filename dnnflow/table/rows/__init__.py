"""Give the rows that a parallel training reads: files, arrays, datasets and own code behind one interface.

Start at `source` (the interface) and `sources` (the door). What a replica does with rows is not of here.
"""
