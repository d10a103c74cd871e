"""What trains: batches, latents, LoRA, sharding, checkpoints, the trainer."""
