import sys

try:
    from apfl.cli import main
except ModuleNotFoundError as error:  # a clone whose packages are not installed, or a Python that does not have them
    if (error.name or "apfl").partition(".")[0] == "apfl":
        raise
    print(f"apfl: error: {error.name} is not installed for {sys.executable}; run pip install -e .", file=sys.stderr)
    sys.exit(2)

main()
