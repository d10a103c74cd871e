"""T2I-ReasonBench: a judge describes the image, then answers groups of questions with criteria. No torch."""
