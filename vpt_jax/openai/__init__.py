"""OpenAI's released weights: read, converted and written."""
