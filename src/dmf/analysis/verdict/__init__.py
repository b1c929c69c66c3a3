"""What the runs say of the paper: its claims, how they are tested, and what may explain gaps."""
