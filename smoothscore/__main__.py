"""`python -m smoothscore`."""

from smoothscore.cli import main

if __name__ == "__main__":
    main()
