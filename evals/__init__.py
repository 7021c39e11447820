"""Golden tasks and the gate over them."""
