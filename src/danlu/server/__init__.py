"""Serves a model and its adapters over HTTP: life > openai > edge > state, from top to ground."""
