"""Chats that the server keeps: their turns, their answers, and files of them."""
