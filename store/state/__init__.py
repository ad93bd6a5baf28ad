"""The documents of a home: plans and results, who is at work, what was asked for."""
