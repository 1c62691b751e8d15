"""What a row means: alpaca, sharegpt and OpenAI rows as conversations."""
