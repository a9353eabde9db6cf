"""One file for each schema, never changed once it has been released."""
