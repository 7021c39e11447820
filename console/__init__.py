"""How people see and steer the dance: the command line and the web console."""
