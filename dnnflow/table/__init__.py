"""Make a dataset of any table: text to columns, columns to arrays, and rows for every kind of training.

Rooms: `columns` (kinds, recipe, statistics), `text` (bytes to blocks), `formats` (tables with types), `store`
(datasets on disk), `rows` (sources of parallel training). Nothing here knows designs, engines or runs.
"""
