"""WISE: requests that need knowledge. Two versions with other prompts and other grades, never mixed. No torch."""
