"""Launch settings and traces for the engines that run a plan."""
