"""Audits of millions of rows: the same work in this process, or by many workers through Ray, with the same results.

    items (in order) ─► chunks of a fixed size ─► workers, in whatever order ─► results in the order of the items ─► one line each

A result depends on its chunk alone: not on the worker, nor on how many there are, nor on what that worker did before.
"""
