"""`srum eval`: a benchmark on any model, in stages. Images are generated, a judge answers questions about them, and the
answers are scored. Each stage reads what the previous one wrote, and can be interrupted at any moment.

    RUN/run.toml                settings
    RUN/prompts.jsonl           the prompts
    RUN/images/                 the images, with their SHA-256
    RUN/answers/JUDGE/          every answer unchanged, under a hash of all that it depends on
    RUN/tables/JUDGE/           table.json, and the measures of every image

A training run has the same, from prompts.jsonl on, in `base/evaluation` and `round-k/evaluation`.

Scores are never stored with the answers: scoring parses the answers, and needs neither a model nor a network.
"""
