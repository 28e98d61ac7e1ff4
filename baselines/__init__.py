"""One file per method; `apfl methods` lists them. docs/adding-a-method.md shows how to add one."""
