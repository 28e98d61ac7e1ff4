from apfl.cli import main

main()
