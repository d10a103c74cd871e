"""For authors of adapters: checkpoints, images, text generation, memory."""
