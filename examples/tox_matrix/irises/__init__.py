"""Find the best depth of a decision tree for irises."""
