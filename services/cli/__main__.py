"""Entry point: `python -m services.cli` runs `stackctl`."""

from services.cli.main import main

if __name__ == "__main__":
    main(prog_name="stackctl")
