"""The bundled world: small pictures of coloured shapes, prompts for them, and a checker that needs no model."""
