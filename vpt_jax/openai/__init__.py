"""Import and export of OpenAI's released weights: reading, conversion, writing."""
