"""GenEval: objects, counts, colours and positions, by fixed rules on what a detector saw. No torch."""
