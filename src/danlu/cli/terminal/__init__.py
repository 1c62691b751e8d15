"""What commands show in a terminal: progress, findings, answers, previews."""
