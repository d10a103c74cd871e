"""Who can answer in the place of the model itself."""
