"""The workflow's view: paths, logs, the state of each job, and archives."""
