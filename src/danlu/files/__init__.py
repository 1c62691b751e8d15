"""What must survive a crash or a full disk: atomic files, committed folders, locks."""
