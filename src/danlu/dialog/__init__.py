"""Conversations with a loaded model: messages in, typed events out."""
