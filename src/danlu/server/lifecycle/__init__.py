"""The server from its start to its end: socket, model, application, status, hand-over to vLLM."""
