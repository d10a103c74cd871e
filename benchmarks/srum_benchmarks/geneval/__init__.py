"""GenEval: objects, counts, colours and positions, by fixed rules on detections. No torch."""
