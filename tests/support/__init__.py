"""The real parts that tests run against, and the law that nothing is left behind."""
