"""What runs beside what: graphs of operations on shared resources, pipeline schedules, and the best of them."""
