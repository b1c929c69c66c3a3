"""What the paper prints, and whether its numbers fit each other."""
