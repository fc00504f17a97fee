"""The training model: layouts, memory, step time, search."""
