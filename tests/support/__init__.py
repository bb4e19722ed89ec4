"""The real programs that tests run against, and the check that a test leaves nothing behind."""
