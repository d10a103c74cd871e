"""The stages that turn records into records, and their order."""
