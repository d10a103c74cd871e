"""The bundled world: small images of coloured shapes, prompts for them, and a checker that needs no model."""
