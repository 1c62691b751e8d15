"""The studio: danlu in the browser, over the server's application."""
