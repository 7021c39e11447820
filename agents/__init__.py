"""Who decides: the worker, the four roles, their tools and the composition root."""
