"""T2I-ReasonBench: a judge describes the picture, then answers groups of questions with criteria. No torch."""
