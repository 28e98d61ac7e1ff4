"""What is said of methods and of code before any of it is run."""
