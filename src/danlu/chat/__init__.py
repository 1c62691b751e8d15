"""The terminal chat: a session, its commands, the prompt they are typed at, and the screen."""
