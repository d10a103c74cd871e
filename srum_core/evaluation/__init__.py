"""`srum eval`: a benchmark on any model, in stages. Images are drawn, somebody is asked about them, and what was said
is scored; each stage reads what the one before left on disk, and can be interrupted at any moment.

    RUN/run.toml                settings
    RUN/prompts.jsonl           what is drawn
    RUN/images/               the images, with their SHA-256
    RUN/answers/JUDGE/          every answer as it was given, under a hash of all that it depends on
    RUN/tables/JUDGE/           table.json, and the measures of every image

A training run has the same, from prompts.jsonl on, in `base/evaluation` and `round-k/evaluation`.

Scores are never stored with the answers: scoring reads the answers again, and needs neither a model nor a network.
"""
