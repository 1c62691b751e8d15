"""The routes of OpenAI's and vLLM's API: bodies, engine requests, replies."""
