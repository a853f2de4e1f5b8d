"""Statistics on arrays: how sure a number is, and which method is better than which.

Every function is pure: arrays in, a small frozen result out that carries its n and the name of its method. What is
random takes a ``numpy.random.Generator``, and the same state of it gives the same bits. ``docs/statistics.md`` has
the formulas. scipy's distributions are imported where they are used: they take half a second to load.
"""
