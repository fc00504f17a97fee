"""Launch settings: a layout and its job as the flags of a framework, and a user's own flags read back.

Both ways go through neutral facts (tp, recompute, hidden ...) and one mapping table per framework,
`catalogs/launchers/*.yaml`. What a table has no word for is said, never dropped.
"""
