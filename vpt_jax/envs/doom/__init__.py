"""ViZDoom behind the human action interface, and a scripted player of it."""
