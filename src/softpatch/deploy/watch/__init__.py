"""A folder that files come into: each is judged once, and told of."""
