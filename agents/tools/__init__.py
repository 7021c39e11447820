"""What the roles may do: each tool is typed, bounded and safe to call twice."""
