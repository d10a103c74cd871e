"""What understanding benchmarks make of answers: parsers and scores only, equal to the published scripts. No torch."""
