"""The commands of the chat: one table, and what each of them does."""
